/** What the agent makes of a cloud's notices: which of them, and when. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CloudGroup, createCloudGroup } from '@presync/bootstrap/cloud-group';
import type { Notice } from '@presync/bootstrap/group';
import { type AzureMetadata, startAzureMetadata } from '../../../test/support/azure-metadata-stand-in.ts';
import { eventually, openAt } from './cloud-support.ts';

const signal = AbortSignal.timeout(120_000);
const ME = ['sentries_3'];
/** Maintenance is acted upon a minute before its time, and the time for requests to end. */
const DRAIN_S = 10;
const LEAD_S = 60 + DRAIN_S;

describe('the group of an instance in a cloud', () => {
  let azure: AzureMetadata;
  let group: CloudGroup;
  let heard: Notice[];
  let enough: AbortController;
  let ended: Promise<void>;

  beforeEach(async () => {
    azure = await startAzureMetadata();
    const { cloud } = await openAt('azure', azure.base);
    group = createCloudGroup(cloud, { drainMs: DRAIN_S * 1000 });
    heard = [];
    enough = new AbortController();
    ended = (async () => {
      for await (const notice of group.notices(enough.signal)) heard.push(notice);
    })();
  });

  afterEach(async () => {
    enough.abort();
    await ended;
    group.close();
    await azure.stop();
  });

  test('is left at once when the machine is taken away', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Terminate', Resources: ME }, 900);
    await eventually(() => heard.length > 0, 'it is told');
    const [notice] = heard;
    assert.deepEqual([notice?.kind, notice?.final, notice?.id], ['scale-in', true, 'A-1']);
    assert.ok(notice?.deadline !== undefined && notice.deadline.getTime() > Date.now() + 890_000);
    assert.deepEqual(azure.approved, []);
    if (notice !== undefined) await group.completeTermination(notice, signal);
    assert.deepEqual(azure.approved, ['A-1']);
  });

  test('is left shortly before maintenance, and not when that is announced', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Redeploy', Resources: ME }, LEAD_S + 5);
    await sleep(3000);
    assert.equal(heard.length, 0);
    await eventually(() => heard.length > 0, 'it is told');
    const left = ((heard[0]?.deadline?.getTime() ?? 0) - Date.now()) / 1000;
    assert.ok(left <= LEAD_S && left > LEAD_S - 4, `${left} s are left`);
  });

  test('is not left for what is called off, for a pause, or for others', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Reboot', Resources: ME }, LEAD_S + 3);
    azure.schedule({ EventId: 'A-2', EventType: 'Freeze', Resources: ME }, 1);
    azure.schedule({ EventId: 'A-3', EventType: 'Terminate', Resources: ['sentries_4'] }, 300);
    await sleep(1500);
    azure.end('A-1');
    await sleep(4000);
    assert.equal(heard.length, 0);
  });
});
