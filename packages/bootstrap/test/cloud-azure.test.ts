import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cloud } from '@presync/bootstrap/cloud';
import { type AzureMetadata, startAzureMetadata } from '../../../test/support/azure-metadata-stand-in.ts';
import { eventually, failure, listen, openAt, type Recorded } from './cloud-support.ts';

const signal = AbortSignal.timeout(120_000);
const ME = 'sentries_3';
const ANOTHER = 'sentries_4';

describe('Azure', () => {
  let azure: AzureMetadata;
  let cloud: Cloud;
  let recorded: Recorded;
  let heard: ReturnType<typeof listen>;

  beforeEach(async () => {
    azure = await startAzureMetadata();
    ({ cloud, recorded } = await openAt('azure', azure.base));
    heard = listen(cloud);
  });

  afterEach(async () => {
    await heard.stop();
    cloud.close();
    await azure.stop();
  });

  test('tells who the instance is', async () => {
    assert.deepEqual(await cloud.instance(signal), {
      cloud: 'azure',
      id: '02aab8a4-74ef-476e-8182-f6d2ba4166a6',
      name: ME,
      region: 'westeurope',
      zone: '2',
      group: 'sentries',
    });
    // A VM of no zone and no scale set has empty texts there.
    Object.assign(azure.compute, { zone: '', vmScaleSetName: '' });
    const { zone, group } = await cloud.instance(signal);
    assert.deepEqual([zone, group], [undefined, undefined]);
  });

  for (const [type, kind, effect] of [
    ['Preempt', 'preemption', 'ends'],
    ['Terminate', 'scale-in', 'ends'],
    ['Reboot', 'maintenance', 'restarts'],
    ['Redeploy', 'maintenance', 'restarts'],
    ['Freeze', 'maintenance', 'pauses'],
  ] as const) {
    test(`announces ${type}, from its schedule to its end`, async () => {
      const least = Math.floor(Date.now() / 1000) * 1000 + 30_000;
      azure.schedule({ EventId: 'A-1', EventType: type, Resources: [ME.toUpperCase()] }, 30);
      const notice = await heard.until(({ id }) => id === 'A-1');
      assert.deepEqual([notice.kind, notice.effect, notice.state], [kind, effect, 'ahead']);
      const deadline = notice.deadline?.getTime() ?? 0;
      assert.ok(deadline >= least && deadline <= Date.now() + 30_000);
      azure.begin('A-1');
      const begun = await heard.until(({ state }) => state === 'begun');
      assert.equal(begun.deadline, undefined);
      azure.end('A-1');
      await heard.until(({ state }) => state === 'over');
      assert.deepEqual(
        heard.notices.map(({ state }) => state),
        ['ahead', 'begun', 'over'],
      );
    });
  }

  test('announces what happens to other VMs to this one too, which passes it over', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Reboot', Resources: [ANOTHER] }, 900);
    azure.schedule({ EventId: 'A-2', EventType: 'Freeze', Resources: [ME], DurationInSeconds: 0 }, 900);
    const notice = await heard.until(() => true);
    assert.deepEqual([notice.id, notice.effect], ['A-2', 'none']);
    assert.equal(heard.notices.length, 1);
  });

  test('lets an event go on when the node has stopped', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Terminate', Resources: [ME] }, 300);
    const notice = await heard.until(({ state }) => state === 'ahead');
    await cloud.completeTermination(notice, signal);
    assert.deepEqual(azure.approved, ['A-1']);
    await heard.until(({ state }) => state === 'begun');
    azure.end('A-1');
    await heard.until(({ state }) => state === 'over');
    await cloud.completeTermination(notice, signal);
  });

  test('is not told to go on with what hits other VMs as well, nor with a pause', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Redeploy', Resources: [ME, ANOTHER] }, 600);
    azure.schedule({ EventId: 'A-2', EventType: 'Freeze', Resources: [ME] }, 900);
    for (const id of ['A-1', 'A-2'])
      await cloud.completeTermination(await heard.until((notice) => notice.id === id), signal);
    assert.deepEqual(azure.approved, []);
  });

  test('that fails for a while is told once, and loses nothing', async () => {
    azure.schedule({ EventId: 'A-1', EventType: 'Preempt', Resources: [ME] }, 30);
    await heard.until(({ id }) => id === 'A-1');
    azure.failing = 500;
    const { asked } = azure;
    await eventually(() => azure.asked >= asked + 3, 'it is asked again');
    azure.schedule({ EventId: 'A-2', EventType: 'Reboot', Resources: [ME] }, 900);
    azure.failing = undefined;
    await heard.until(({ id }) => id === 'A-2');
    assert.equal(heard.notices.length, 2, JSON.stringify(heard.notices));
    assert.deepEqual(['warn cloud.metadata_failed', 'info cloud.metadata_back'].map(recorded.count), [1, 1]);
  });

  test('knows no hook', async () => {
    assert.equal(await cloud.hold('launch', signal), 'nothing');
    await cloud.completeLaunch('continue', signal);
  });

  test('says what it refuses', async () => {
    azure.failing = 403;
    assert.equal((await failure(cloud.instance(signal))).code, 'CLOUD_FORBIDDEN');
    azure.failing = 404;
    assert.equal((await failure(cloud.instance(signal))).code, 'CLOUD_FAILED');
    await sleep(1);
  });
});
