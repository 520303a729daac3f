import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cloud } from '@presync/bootstrap/cloud';
import { type GcpMetadata, startGcpMetadata } from '../../../test/support/gcp-metadata-stand-in.ts';
import { eventually, failure, listen, openAt, type Recorded } from './cloud-support.ts';

const signal = AbortSignal.timeout(120_000);

describe('Google Cloud', () => {
  let gcp: GcpMetadata;
  let cloud: Cloud;
  let recorded: Recorded;
  let heard: ReturnType<typeof listen>;

  beforeEach(async () => {
    gcp = await startGcpMetadata();
    ({ cloud, recorded } = await openAt('gcp', gcp.base));
    heard = listen(cloud);
  });

  afterEach(async () => {
    await heard.stop();
    cloud.close();
    await gcp.stop();
  });

  /** Questions after a key that the server holds until its value changes. */
  const held = (key: string): string[] =>
    gcp.asked.filter((url) => url.includes(`instance/${key}?`) && url.includes('wait_for_change=true'));
  const watching = (key: string): Promise<void> =>
    eventually(() => held(key).length > 0, `${key} is watched`);

  test('tells who the instance is', async () => {
    assert.deepEqual(await cloud.instance(signal), {
      cloud: 'gcp',
      id: '4520031799277581759',
      name: 'sentries-8x2f',
      zone: 'europe-west1-b',
      region: 'europe-west1',
      group: 'sentries',
    });
    gcp.set('attributes/created-by', undefined);
    assert.equal((await cloud.instance(signal)).group, undefined);
  });

  test('announces a preemption at the instant', async () => {
    await watching('preempted');
    const before = Date.now();
    gcp.set('preempted', 'TRUE');
    const notice = await heard.until(({ kind }) => kind === 'preemption');
    const latency = Date.now() - before;
    assert.deepEqual([notice.effect, notice.state], ['ends', 'ahead']);
    const deadline = notice.deadline?.getTime() ?? 0;
    assert.ok(deadline >= before + 30_000 && deadline <= Date.now() + 30_000);
    assert.ok(latency < 800, `the notice came ${latency} ms late, as if it were polled for`);
    await sleep(2500);
    assert.equal(heard.notices.length, 1, 'it was told twice');
  });

  test('misses no change that falls between two questions', async () => {
    await watching('maintenance-event');
    gcp.set('maintenance-event', 'MIGRATE_ON_HOST_MAINTENANCE');
    await heard.until(({ state }) => state === 'ahead');
    // At once: the question after the next change is not asked yet.
    gcp.set('maintenance-event', 'NONE');
    await heard.until(({ state }) => state === 'over');
    assert.match(held('maintenance-event').at(-1) ?? '', /last_etag=[0-9a-f]{16}/);
  });

  for (const [value, restarts, effect] of [
    ['MIGRATE_ON_HOST_MAINTENANCE', 'TRUE', 'pauses'],
    ['TERMINATE_ON_HOST_MAINTENANCE', 'TRUE', 'restarts'],
    ['TERMINATE_ON_HOST_MAINTENANCE', 'FALSE', 'ends'],
  ] as const) {
    test(`announces ${value}, automatic restart ${restarts}`, async () => {
      gcp.set('scheduling/automatic-restart', restarts);
      gcp.set('maintenance-event', value);
      const notice = await heard.until(({ kind }) => kind === 'maintenance');
      assert.equal(notice.effect, effect);
      assert.ok((notice.deadline?.getTime() ?? 0) > Date.now() + 50_000);
    });
  }

  test('announces a stop that waits for the guest', async () => {
    await heard.stop();
    gcp.set('shutdown-details/stop-state', 'UNSPECIFIED');
    heard = listen(cloud);
    await watching('shutdown-details/stop-state');
    gcp.set('shutdown-details/request-timestamp', '2026-01-01T00:00:00Z');
    gcp.set('shutdown-details/max-duration', '600');
    gcp.set('shutdown-details/stop-state', 'PENDING_STOP');
    const notice = await heard.until(({ kind }) => kind === 'scale-in');
    assert.deepEqual([notice.effect, notice.deadline], ['ends', new Date('2026-01-01T00:10:00Z')]);
  });

  test('that does not hold questions is not asked without end', async () => {
    gcp.holding = false;
    gcp.asked.length = 0;
    await sleep(3000);
    assert.ok(gcp.asked.length <= 12, `${gcp.asked.length} questions in 3 s`);
    gcp.set('preempted', 'TRUE');
    await heard.until(({ kind }) => kind === 'preemption');
  });

  test('that is moved to another host answers 503 for a while, and loses nothing', async () => {
    gcp.set('preempted', 'TRUE');
    await heard.until(({ kind }) => kind === 'preemption');
    gcp.failing = 503;
    gcp.set('maintenance-event', 'NONE');
    await eventually(() => recorded.count('warn cloud.metadata_failed') > 0, 'the failure is told');
    gcp.failing = undefined;
    gcp.set('maintenance-event', 'TERMINATE_ON_HOST_MAINTENANCE');
    await heard.until(({ kind }) => kind === 'maintenance');
    assert.ok(!heard.notices.some(({ state }) => state === 'over'));
  });

  test('is not taken to be who does not say so', async () => {
    gcp.flavor = undefined;
    const error = await failure(cloud.instance(signal));
    assert.equal(error.code, 'CLOUD_FAILED');
    assert.match(error.message, /not as Google/);
  });

  test('knows no hook, and waits for nobody', async () => {
    assert.equal(await cloud.hold('launch', signal), 'nothing');
    await cloud.completeLaunch('continue', signal);
    gcp.set('preempted', 'TRUE');
    await cloud.completeTermination(await heard.until(() => true), signal);
  });
});
