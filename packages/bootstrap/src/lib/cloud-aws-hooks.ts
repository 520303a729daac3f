import { isPresyncError } from '@presync/runtime/errors';
import type { HoldEnd, Transition } from '../cloud.ts';
import { isNoAction } from './cloud-aws-errors.ts';
import type { GroupApi, Hook } from './cloud-aws-group.ts';
import type { CloudSinks } from './cloud-watch.ts';
import { sleepQuietly } from './sleep-quietly.ts';

/** Heartbeats come so many times as often as they have to, so that some may be lost. */
const BEATS_PER_TIMEOUT = 3;

/** A group that has no hook waiting yet, although the instance is on its way, is asked again after this long. */
const AGAIN_MS = 2000;

/** An instance may be up before its group waits for it; after this long it will not any more. */
const HOOK_COMES_WITHIN_MS = 2 * 60_000;

/** States in which the group waits, or is about to (https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html). */
const ON_ITS_WAY: Readonly<Record<Transition, RegExp>> = {
  launch: /^(?:Warmed:)?Pending(?::Wait)?$/,
  // An instance that goes back to a warm pool is Pending there.
  termination: /^(?:(?:Warmed:)?Terminating|Warmed:Pending)(?::Wait)?$/,
};

/** A transition of the instance, and the hook at which its group waits. */
export interface Wait extends CloudSinks {
  api: GroupApi;
  hook: Hook;
  transition: Transition;
  /** Hooks that were completed from here. */
  completed: Set<string>;
}

/** Completes the hook. Nothing is done where nothing waits, unless the instance is only just on its way there. */
export async function completeHook(
  wait: Wait,
  result: 'CONTINUE' | 'ABANDON',
  signal: AbortSignal,
): Promise<void> {
  const { api, hook, log } = wait;
  const fields = { hook: hook.name, group: hook.group };
  const until = performance.now() + HOOK_COMES_WITHIN_MS;
  for (;;) {
    try {
      await api.complete(hook, result, signal);
      wait.completed.add(hook.name);
      log.info('cloud.hook_completed', `the hook ${hook.name} is completed: ${result}`, {
        ...fields,
        result,
      });
      return;
    } catch (error) {
      if (!isNoAction(error)) throw error;
    }
    if (performance.now() > until || !(await isOnItsWay(wait, signal))) {
      log.info('cloud.hook_absent', `nothing waits at the hook ${hook.name}`, fields);
      return;
    }
    await sleepQuietly(AGAIN_MS, signal);
  }
}

/** Heartbeats until the signal fires, the hook is over, or the group waits no longer. Throws what the calls throw. */
export async function beatUntilEnd(wait: Wait, signal: AbortSignal): Promise<HoldEnd> {
  const { api, hook, log, metrics } = wait;
  const fields = { hook: hook.name, group: hook.group };
  const started = performance.now();
  let waited = false;
  while (!signal.aborted) {
    const elapsedMs = performance.now() - started;
    if (elapsedMs > hook.limitMs) {
      log.warn('cloud.hook_limit', `the group ${hook.group} waits no longer at the hook ${hook.name}`, {
        ...fields,
        limitSeconds: hook.limitMs / 1000,
      });
      return 'limit';
    }
    try {
      await api.heartbeat(hook, signal);
    } catch (error) {
      if (!isNoAction(error)) throw error;
      if (!waited && elapsedMs < HOOK_COMES_WITHIN_MS && (await isOnItsWay(wait, signal))) {
        await sleepQuietly(AGAIN_MS, signal);
        continue;
      }
      if (waited && !wait.completed.has(hook.name))
        log.warn('cloud.hook_gone', `the hook ${hook.name} was completed, or has timed out`, fields);
      return 'nothing';
    }
    waited = true;
    metrics?.heartbeats.inc({ outcome: 'ok' });
    // A fleet that was launched at once need not beat at once.
    await sleepQuietly((hook.heartbeatMs / BEATS_PER_TIMEOUT) * (0.8 + 0.2 * Math.random()), signal);
  }
  return 'stopped';
}

/** Whether the hook may still come to wait for the instance. Where presync may not ask, it does not. */
async function isOnItsWay({ api, transition }: Wait, signal: AbortSignal): Promise<boolean> {
  try {
    const { state } = (await api.membership(signal)) ?? {};
    return state !== undefined && ON_ITS_WAY[transition].test(state);
  } catch (error) {
    if (isPresyncError(error, 'CLOUD_FORBIDDEN')) return false;
    throw error;
  }
}
