/** The agent with the real node in an Auto Scaling group: kept waiting, joined, scaled in. EC2's metadata is AWS's own mock, the group a stand-in. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAutoScaling } from '../support/auto-scaling-stand-in.ts';
import { findEc2MetadataMock, MOCK_INSTANCE, startEc2MetadataMock } from '../support/ec2-metadata-mock.ts';
import { needs } from '../support/needs.ts';
import { freePorts } from '../support/ports.ts';
import { startPresync } from '../support/presync.ts';
import { devChainSpec, hasNode, nodeExecutable } from '../support/real-node.ts';
import { createWorld } from '../support/world.ts';

/** The shortest that a hook may have. */
const HOOK = { heartbeatTimeout: 30, globalTimeout: 3000 };
const QUIET = ['asglifecycle', '--asg-termination-delay-sec', '9999'];

test(
  'an instance keeps its group waiting until the node is ready, and leaves when it is scaled in',
  needs('a node executable and ec2-metadata-mock', hasNode() && findEc2MetadataMock() !== undefined),
  async (t) => {
    const { dir, store, trust } = await createWorld(t);
    const target = join(dir, 'target');
    const [rpc = 0, p2p = 0, admin = 0] = await freePorts(3);
    const mock = await startEc2MetadataMock(QUIET);
    const group = await startAutoScaling(MOCK_INSTANCE.id);
    t.after(async () => {
      await mock.stop();
      await group.stop();
    });
    group.hooks = [
      { ...HOOK, name: 'launching', transition: 'autoscaling:EC2_INSTANCE_LAUNCHING' },
      { ...HOOK, name: 'terminating', transition: 'autoscaling:EC2_INSTANCE_TERMINATING' },
    ];
    group.wait('launching', 'Pending:Wait');
    const agent = startPresync(
      [
        ...[
          'bootstrap',
          '--base-path',
          target,
          '--store',
          store,
          '--trust',
          trust,
          '--state-dir',
          join(dir, 'agent'),
        ],
        ...['--cloud', 'aws', '--cloud-metadata', mock.base, '--drain-time', '4s'],
        ...[
          '--admin-listen',
          `127.0.0.1:${admin}`,
          '--rpc',
          `ws://127.0.0.1:${rpc}`,
          '--sealed-file',
          'none',
        ],
        ...[
          '--',
          await nodeExecutable(),
          '--chain',
          await devChainSpec(),
          '--dev',
          '--dev-block-time',
          '500',
        ],
        ...['--pool-type', 'single-state', '--state-pruning', 'archive', '--blocks-pruning', 'archive'],
        ...['--database', 'rocksdb', '--base-path', target, '--rpc-port', String(rpc)],
        ...['--listen-addr', `/ip4/127.0.0.1/tcp/${p2p}`, '--no-mdns', '--no-telemetry', '--no-prometheus'],
      ],
      { env: group.env },
    );
    t.after(() => agent.child.kill('SIGKILL'));
    const answers = (url: string): Promise<number> =>
      fetch(url).then(
        ({ status }) => status,
        () => 0,
      );
    const readyz = (): Promise<number> => answers(`http://127.0.0.1:${admin}/readyz`);
    const node = (): Promise<number> => answers(`http://127.0.0.1:${rpc}/health`);
    const until = async (what: string, is: () => boolean | Promise<boolean>): Promise<void> => {
      for (const end = performance.now() + 240_000; !(await is()); ) {
        assert.ok(performance.now() < end, `never: ${what}`);
        assert.equal(agent.child.exitCode, null, `the agent ended before: ${what}`);
        await sleep(50);
      }
    };

    await until('the launch is over', () => group.ended !== undefined);
    assert.equal(group.ended, 'CONTINUE');
    assert.equal(await readyz(), 200, 'the group was told before the node was ready');
    assert.ok(group.calls.some(({ Action }) => Action === 'RecordLifecycleActionHeartbeat'));

    group.wait('terminating', 'Terminating:Wait');
    await mock.stop();
    await mock.start(['asglifecycle']);
    await until('/readyz is red', async () => (await readyz()) === 503);
    assert.equal(await node(), 200, 'the node was stopped before /readyz was red');
    assert.equal(group.ended, undefined, 'the group went on before the node had stopped');
    await until('the termination is over', () => group.ended !== undefined);
    assert.equal(group.ended, 'CONTINUE');
    assert.equal(await node(), 0, 'the node still answers');
    assert.equal(await readyz(), 503);

    agent.child.kill('SIGTERM');
    const { stderr } = await agent.done;
    assert.match(stderr, /cloud\.notice/);
    assert.doesNotMatch(stderr, /hook_gone|hook_limit|hold_failed/);
  },
);
