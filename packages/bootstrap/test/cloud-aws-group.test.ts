/** Lifecycle hooks: who the instance is comes from AWS's mock of its metadata, and the group is a stand-in that checks what it is sent. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cloud } from '@presync/bootstrap/cloud';
import {
  type AutoScalingStandIn,
  type StandInHook,
  startAutoScaling,
} from '../../../test/support/auto-scaling-stand-in.ts';
import {
  type Ec2MetadataMock,
  findEc2MetadataMock,
  MOCK_INSTANCE,
  startEc2MetadataMock,
} from '../../../test/support/ec2-metadata-mock.ts';
import { needs } from '../../../test/support/needs.ts';
import { eventually, failure, openAt, type Recorded } from './cloud-support.ts';

const signal = AbortSignal.timeout(300_000);

const LAUNCH: StandInHook = {
  name: 'presync-ready',
  transition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
  heartbeatTimeout: 3600,
  globalTimeout: 172_800,
};
const TERMINATION: StandInHook = {
  ...LAUNCH,
  name: 'presync-drained',
  transition: 'autoscaling:EC2_INSTANCE_TERMINATING',
};

describe('an Auto Scaling group', needs('ec2-metadata-mock', findEc2MetadataMock() !== undefined), () => {
  let mock: Ec2MetadataMock;
  let group: AutoScalingStandIn;
  let cloud: Cloud;
  let recorded: Recorded;

  before(async () => {
    mock = await startEc2MetadataMock(['asglifecycle', '--asg-termination-delay-sec', '9999']);
  });

  beforeEach(async () => {
    await group?.stop();
    cloud?.close();
    group = await startAutoScaling(MOCK_INSTANCE.id);
    group.hooks = [LAUNCH, TERMINATION];
    for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
    Object.assign(process.env, group.env);
    ({ cloud, recorded } = await openAt('aws', mock.base));
  });

  after(async () => {
    cloud.close();
    await group.stop();
    await mock.stop();
  });

  const actions = (): string[] => group.calls.map(({ Action = '' }) => Action);

  for (const [result, sent] of [
    ['continue', 'CONTINUE'],
    ['abandon', 'ABANDON'],
  ] as const) {
    test(`is told to ${result}`, async () => {
      group.wait(LAUNCH.name, 'Pending:Wait');
      await cloud.completeLaunch(result, signal);
      assert.equal(group.ended, sent);
      assert.deepEqual(group.calls.at(-1), {
        Action: 'CompleteLifecycleAction',
        Version: '2011-01-01',
        AutoScalingGroupName: 'sentries',
        LifecycleHookName: 'presync-ready',
        InstanceId: MOCK_INSTANCE.id,
        LifecycleActionResult: sent,
      });
    });
  }

  test('may be told twice, and when nothing waits', async () => {
    group.wait(LAUNCH.name, 'Pending:Wait');
    await cloud.completeLaunch('continue', signal);
    await cloud.completeLaunch('continue', signal);
    group.state = 'InService';
    await cloud.completeLaunch('continue', signal);
    assert.equal(recorded.count('info cloud.hook_completed'), 1);
    assert.equal(recorded.count('info cloud.hook_absent'), 2);
  });

  test('that does not wait yet is told when it does', async () => {
    group.state = 'Pending';
    const done = cloud.completeLaunch('continue', signal);
    await eventually(() => actions().includes('CompleteLifecycleAction'), 'it is told');
    group.wait(LAUNCH.name, 'Pending:Wait');
    await done;
    assert.equal(group.ended, 'CONTINUE');
  });

  test('has no hook', async () => {
    group.hooks = [TERMINATION];
    await cloud.completeLaunch('continue', signal);
    assert.equal(await cloud.hold('launch', signal), 'nothing');
    assert.ok(!actions().some((action) => /Complete|Record/.test(action)));
  });

  test('does not have this instance', async () => {
    // This mock has no target lifecycle state.
    const other = await startEc2MetadataMock(['spot']);
    const { cloud: alone } = await openAt('aws', other.base);
    group.state = undefined;
    try {
      await alone.completeLaunch('continue', signal);
      assert.equal(await alone.hold('launch', signal), 'nothing');
      assert.ok(!actions().some((action) => /Complete|Record/.test(action)));
    } finally {
      alone.close();
      await other.stop();
    }
  });

  test('that does not know of the instance yet is asked again', async () => {
    group.state = undefined;
    const done = cloud.completeLaunch('continue', signal);
    await eventually(() => actions().includes('DescribeAutoScalingInstances'), 'it is asked');
    group.wait(LAUNCH.name, 'Pending:Wait');
    await done;
    assert.equal(group.ended, 'CONTINUE');
  });

  test('has hooks of others too: theirs are not completed', async () => {
    group.hooks = [LAUNCH, { ...LAUNCH, name: 'of-others' }];
    group.wait('of-others', 'Pending:Wait');
    const error = await failure(cloud.completeLaunch('continue', signal));
    assert.equal(error.code, 'CONFIG_INVALID');
    assert.match(`${error.message} ${error.hint}`, /presync-ready, of-others .*--launch-hook/);
    assert.equal(group.ended, undefined);
    cloud.close();
    ({ cloud, recorded } = await openAt('aws', mock.base, { launchHook: 'of-others' }));
    await cloud.completeLaunch('continue', signal);
    assert.equal(group.ended, 'CONTINUE');
  });

  test('has no hook of that name', async () => {
    cloud.close();
    ({ cloud, recorded } = await openAt('aws', mock.base, { launchHook: 'presync-redy' }));
    const error = await failure(cloud.completeLaunch('continue', signal));
    assert.equal(error.code, 'CONFIG_INVALID');
    assert.match(error.hint ?? '', /presync-ready/);
  });

  test('is kept waiting for as long as it takes, and no longer', async () => {
    group.hooks = [{ ...LAUNCH, heartbeatTimeout: 2 }];
    group.wait(LAUNCH.name, 'Pending:Wait');
    const held = new AbortController();
    const hold = cloud.hold('launch', held.signal);
    await sleep(6000);
    assert.equal(group.ended, undefined, 'the hook has timed out while it was held');
    held.abort();
    assert.equal(await hold, 'stopped');
    const beats = actions().filter((action) => action === 'RecordLifecycleActionHeartbeat').length;
    assert.ok(beats >= 8 && beats <= 14, `${beats} heartbeats in 6 s`);
    await cloud.completeLaunch('continue', signal);
    assert.equal(group.ended, 'CONTINUE');
  });

  test('is not kept waiting beyond its limit', async () => {
    group.hooks = [LAUNCH];
    group.wait(LAUNCH.name, 'Pending:Wait');
    group.hooks = [{ ...LAUNCH, heartbeatTimeout: 1, globalTimeout: 2 }];
    assert.equal(await cloud.hold('launch', signal), 'limit');
    assert.equal(recorded.count('warn cloud.hook_limit'), 1);
  });

  test('waits no longer than its limit, whatever it is told', async () => {
    group.hooks = [{ ...LAUNCH, heartbeatTimeout: 1, globalTimeout: 3 }];
    group.wait(LAUNCH.name, 'Pending:Wait');
    // The group's own clock may be the first to say so.
    assert.match(await cloud.hold('launch', signal), /limit|nothing/);
    assert.equal(group.ended, 'TIMEOUT');
    assert.equal(recorded.count('warn cloud.hook_limit') + recorded.count('warn cloud.hook_gone'), 1);
  });

  test('is not kept waiting any more once somebody has completed the hook', async () => {
    group.hooks = [{ ...LAUNCH, heartbeatTimeout: 1 }];
    group.wait(LAUNCH.name, 'Pending:Wait');
    const hold = cloud.hold('launch', signal);
    await sleep(1000);
    const { cloud: other } = await openAt('aws', mock.base);
    await other.completeLaunch('abandon', signal);
    other.close();
    assert.equal(await hold, 'nothing');
    assert.equal(recorded.count('warn cloud.hook_gone'), 1);
    group.wait(LAUNCH.name, 'Pending:Wait');
    const again = cloud.hold('launch', signal);
    await sleep(1000);
    await cloud.completeLaunch('continue', signal);
    assert.equal(await again, 'nothing');
    assert.equal(
      recorded.count('warn cloud.hook_gone'),
      1,
      'what presync has done itself is nothing to warn of',
    );
  });

  test('is told that the node has stopped', async () => {
    group.wait(TERMINATION.name, 'Terminating:Wait');
    const notice = { id: 'x', effect: 'ends', state: 'ahead', deadline: undefined, detail: '' } as const;
    await cloud.completeTermination({ ...notice, kind: 'maintenance' }, signal);
    assert.equal(group.ended, undefined);
    await cloud.completeTermination({ ...notice, kind: 'scale-in' }, signal);
    assert.equal(group.ended, 'CONTINUE');
    await cloud.completeTermination({ ...notice, kind: 'scale-in' }, signal);
  });

  test('that is throttled or away for a moment is told all the same', async () => {
    group.wait(LAUNCH.name, 'Pending:Wait');
    group.refusals = [
      { status: 400, code: 'Throttling' },
      { status: 503, code: 'ServiceUnavailable' },
      { action: 'CompleteLifecycleAction', status: 500, code: 'InternalFailure' },
    ];
    await cloud.completeLaunch('continue', signal);
    assert.equal(group.ended, 'CONTINUE');
    assert.ok(recorded.count('warn cloud.retried') >= 2);
  });

  test('whose role may not complete hooks says what it lacks, at once', async () => {
    group.wait(LAUNCH.name, 'Pending:Wait');
    group.refusals = [
      { action: 'CompleteLifecycleAction', status: 403, code: 'AccessDenied', message: 'not authorized' },
    ];
    const error = await failure(cloud.completeLaunch('continue', signal));
    assert.deepEqual([error.code, error.retryable], ['CLOUD_FORBIDDEN', false]);
    assert.match(error.hint ?? '', /autoscaling:CompleteLifecycleAction/);
    assert.equal(recorded.count('warn cloud.retried'), 0);
  });

  test('whose hooks may not be looked at is told by the name that was given', async () => {
    cloud.close();
    ({ cloud, recorded } = await openAt('aws', mock.base, { launchHook: LAUNCH.name }));
    group.wait(LAUNCH.name, 'Pending:Wait');
    group.refusals = [{ action: 'DescribeLifecycleHooks', status: 403, code: 'AccessDenied' }];
    await cloud.completeLaunch('continue', signal);
    assert.equal(group.ended, 'CONTINUE');
    assert.equal(recorded.count('warn cloud.hook_unseen'), 1);
  });

  test('that cannot be held is no end of anything', async () => {
    group.refusals = Array.from({ length: 9 }, () => ({ status: 403, code: 'AccessDenied' }));
    const held = new AbortController();
    const hold = cloud.hold('launch', held.signal);
    await sleep(500);
    held.abort();
    assert.equal(await hold, 'stopped');
    assert.equal(recorded.count('warn cloud.hold_failed'), 1);
  });

  test('takes no call without the right signature', async () => {
    process.env.AWS_SECRET_ACCESS_KEY = 'of somebody else';
    cloud.close();
    ({ cloud, recorded } = await openAt('aws', mock.base));
    group.wait(LAUNCH.name, 'Pending:Wait');
    const soon = AbortSignal.timeout(1500);
    assert.equal((await failure(cloud.completeLaunch('continue', soon))).code, 'ABORTED');
    assert.equal(recorded.count('warn cloud.retried'), 1);
    assert.deepEqual(group.calls, []);
  });
});
