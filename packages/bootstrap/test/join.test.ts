import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';
import { createSilentLogger, type Logger } from '@presync/runtime/log';
import type { Group } from '../src/group.ts';
import { waitBeforeStop } from '../src/lib/drain.ts';
import { abandonLaunch, joinGroup, startHeartbeats } from '../src/lib/join-group.ts';

const NEVER = new AbortController().signal;

/** A group that does nothing but what the test says. */
function groupOf(parts: Partial<Group>): Group {
  return {
    heartbeatMs: undefined,
    heartbeat: async () => {},
    completeLaunch: async () => {},
    notices: async function* () {},
    completeTermination: async () => {},
    ...parts,
  };
}

/** A logger that remembers the names of events. */
function listening(): { log: Logger; events: string[] } {
  const events: string[] = [];
  const hear = (event: string): void => void events.push(event);
  return { log: { ...createSilentLogger(), info: hear, warn: hear, error: hear }, events };
}

test('the launch is completed again after a failure, and a group that never hears is told of', async () => {
  const failure = new PresyncError('STORE_FAILED', 'the endpoint is down');
  let calls = 0;
  const flaky = groupOf({
    completeLaunch: async (result) => {
      assert.equal(result, 'continue');
      calls += 1;
      if (calls < 3) throw failure;
    },
  });
  const first = listening();
  assert.equal(await joinGroup({ group: flaky, firstPauseMs: 1, log: first.log, signal: NEVER }), undefined);
  assert.equal(calls, 3);
  assert.deepEqual(first.events, ['group.joined']);

  const dead = groupOf({ completeLaunch: () => Promise.reject(failure) });
  const second = listening();
  assert.equal(
    await joinGroup({ group: dead, firstPauseMs: 1, log: second.log, signal: NEVER }),
    'the endpoint is down',
  );
  assert.deepEqual(second.events, ['group.join_failed']);
});

test('a launch that is of no use is abandoned, and not when presync is only stopped', async () => {
  const told: string[] = [];
  const group = groupOf({ completeLaunch: async (result) => void told.push(result) });
  const { log } = listening();
  await abandonLaunch({ group, log, signal: NEVER });
  await abandonLaunch({ group, log, signal: AbortSignal.abort() });
  assert.deepEqual(told, ['abandon']);
});

test('heartbeats go on over failures, which are told once, and end with the launch', async () => {
  let beats = 0;
  const group = groupOf({
    heartbeatMs: 5,
    heartbeat: async () => {
      beats += 1;
      if (beats > 1 && beats < 4) throw new Error('no answer');
    },
  });
  const { log, events } = listening();
  const stop = startHeartbeats({ group, log, signal: NEVER });
  while (beats < 6) await sleep(5);
  await stop();
  const after = beats;
  await sleep(30);
  assert.equal(beats, after);
  assert.deepEqual(events, ['group.heartbeat_failed']);
});

test('a node gets its time to close before the deadline, and requests what is left', () => {
  const now = 1_000_000;
  const at = (seconds: number): Date => new Date(now + seconds * 1000);
  assert.equal(waitBeforeStop(30_000, undefined, now), 30_000);
  assert.equal(waitBeforeStop(30_000, at(120), now), 30_000);
  assert.equal(waitBeforeStop(60_000, at(50), now), 30_000);
  assert.equal(waitBeforeStop(60_000, at(5), now), 0);
});
