import * as http from 'node:http';
import * as https from 'node:https';
import type { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Transition } from '../cloud.ts';
import { groupError, isNoAction } from './cloud-aws-errors.ts';
import type { CloudSinks } from './cloud-watch.ts';
import { sleepQuietly } from './sleep-quietly.ts';

/** A lifecycle hook of the instance's group. */
export interface Hook {
  group: string;
  name: string;
  /** Milliseconds by which a heartbeat prolongs the wait. */
  heartbeatMs: number;
  /** Milliseconds after which no heartbeat helps. */
  limitMs: number;
}

/** What is asked of Auto Scaling, each call until it is answered. */
export interface GroupApi {
  /** The group, and the instance's state in it, as `Pending:Wait`; undefined for an instance of no group. */
  membership(signal: AbortSignal): Promise<{ group: string; state: string } | undefined>;
  /**
   * The hook of the transition: the one of that name, else the only one. Undefined when there is none to wait for.
   *
   * @throws PresyncError CONFIG_INVALID when none has the name, or several might be meant
   */
  hook(transition: Transition, signal: AbortSignal): Promise<Hook | undefined>;
  /** @throws the SDK's own error for `isNoAction` */
  complete(hook: Hook, result: 'CONTINUE' | 'ABANDON', signal: AbortSignal): Promise<void>;
  /** @throws the SDK's own error for `isNoAction` */
  heartbeat(hook: Hook, signal: AbortSignal): Promise<void>;
  close(): void;
}

export interface GroupApiOptions extends CloudSinks {
  instanceId: string;
  region: string;
  /** From the instance's own tags; undefined: Auto Scaling is asked. */
  group: string | undefined;
  /** Whether the instance's metadata say that it is in a group. */
  isMember: (signal: AbortSignal) => Promise<boolean>;
  /** Names of hooks that the user gave. */
  hooks: Readonly<Record<Transition, string | undefined>>;
}

/** As in the API. */
const TRANSITIONS: Readonly<Record<Transition, string>> = {
  launch: 'autoscaling:EC2_INSTANCE_LAUNCHING',
  termination: 'autoscaling:EC2_INSTANCE_TERMINATING',
};

/** The shortest that a hook may have: assumed of a hook that presync may not look at. */
const LEAST_HEARTBEAT_MS = 30_000;

/** A group waits 48 hours or 100 heartbeats at most (https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html). */
const MOST_WAIT_MS = 48 * 3_600_000;
const MOST_HEARTBEATS = 100;

/** A new instance may be up before Auto Scaling tells of it. */
const MEMBER_WITHIN_MS = 60_000;
const MEMBER_AGAIN_MS = 2000;

/** How long one call is tried: roles come seconds after the instance, and throttling ends. */
const TRY_MS = 5 * 60_000;
const ATTEMPT_MS = 15_000;
const MAX_DELAY_MS = 20_000;

const silent = (): void => undefined;
const SILENT = { debug: silent, info: silent, warn: silent, error: silent };

/**
 * Credentials come from the AWS SDK's usual chain. The SDK's own retries are off: `TRY_MS` is the one layer. Other than metadata,
 * the calls go through the environment's proxies.
 */
export async function createGroupApi(options: GroupApiOptions): Promise<GroupApi> {
  const sdk = await import('@aws-sdk/client-auto-scaling');
  const { instanceId, region, hooks, log } = options;
  const agent = { keepAlive: true, proxyEnv: process.env };
  const client: AutoScalingClient = new sdk.AutoScalingClient({
    region,
    maxAttempts: 1,
    logger: SILENT,
    requestHandler: { httpAgent: new http.Agent(agent), httpsAgent: new https.Agent(agent) },
  });

  async function call<T>(
    action: string,
    signal: AbortSignal,
    send: (abortSignal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const until = performance.now() + TRY_MS;
    for (let attempt = 1; ; attempt++) {
      throwIfAborted(signal);
      const timeout = AbortSignal.timeout(ATTEMPT_MS);
      try {
        return await send(AbortSignal.any([signal, timeout]));
      } catch (error) {
        throwIfAborted(signal);
        if (isNoAction(error)) throw error;
        const late = timeout.aborted ? new Error(`no answer within ${ATTEMPT_MS / 1000} s`) : error;
        const failure = groupError(action, late);
        // Full jitter: an outage ends for a whole fleet at once.
        const delayMs = Math.random() * Math.min(MAX_DELAY_MS, 500 * 2 ** attempt);
        if (!failure.retryable || performance.now() + delayMs > until) throw failure;
        const level = attempt === 1 ? 'warn' : 'debug';
        log[level]('cloud.retried', `${failure.message}; it is tried again`, { code: failure.code });
        await sleepQuietly(delayMs, signal);
      }
    }
  }

  async function membership(signal: AbortSignal): ReturnType<GroupApi['membership']> {
    const answer = await call('say which group the instance is in', signal, (abortSignal) =>
      client.send(new sdk.DescribeAutoScalingInstancesCommand({ InstanceIds: [instanceId] }), {
        abortSignal,
      }),
    );
    const { AutoScalingGroupName: group, LifecycleState: state } = answer.AutoScalingInstances?.[0] ?? {};
    return group === undefined || state === undefined ? undefined : { group, state };
  }

  async function groupOf(signal: AbortSignal): Promise<string | undefined> {
    if (options.group !== undefined) return options.group;
    const until = performance.now() + MEMBER_WITHIN_MS;
    for (;;) {
      const found = await membership(signal);
      if (found !== undefined) return found.group;
      if (performance.now() >= until || !(await options.isMember(signal))) return undefined;
      await sleepQuietly(MEMBER_AGAIN_MS, signal);
    }
  }

  async function hooksOf(group: string, transition: Transition, signal: AbortSignal): Promise<Hook[]> {
    const answer = await call(`name the hooks of ${group}`, signal, (abortSignal) =>
      client.send(new sdk.DescribeLifecycleHooksCommand({ AutoScalingGroupName: group }), { abortSignal }),
    );
    return (answer.LifecycleHooks ?? []).flatMap((hook): Hook[] => {
      const { LifecycleHookName: name, LifecycleTransition, HeartbeatTimeout, GlobalTimeout } = hook;
      if (name === undefined || LifecycleTransition !== TRANSITIONS[transition]) return [];
      const heartbeatMs = (HeartbeatTimeout ?? LEAST_HEARTBEAT_MS / 1000) * 1000;
      const limitMs =
        GlobalTimeout === undefined
          ? Math.min(MOST_WAIT_MS, MOST_HEARTBEATS * heartbeatMs)
          : GlobalTimeout * 1000;
      return [{ group, name, heartbeatMs, limitMs }];
    });
  }

  return {
    membership,

    async hook(transition, signal) {
      const wanted = hooks[transition];
      const group = await groupOf(signal);
      if (group === undefined) return undefined;
      let found: Hook[];
      try {
        found = await hooksOf(group, transition, signal);
      } catch (error) {
        if (wanted === undefined || !isPresyncError(error, 'CLOUD_FORBIDDEN')) throw error;
        log.warn('cloud.hook_unseen', `nothing is known of the hook ${wanted}: ${error.message}`, {
          hook: wanted,
        });
        return { group, name: wanted, heartbeatMs: LEAST_HEARTBEAT_MS, limitMs: MOST_WAIT_MS };
      }
      return choose(found, { wanted, group, transition });
    },

    async complete({ group, name }, result, signal) {
      await call(`complete the hook ${name}`, signal, (abortSignal) =>
        client.send(
          new sdk.CompleteLifecycleActionCommand({
            AutoScalingGroupName: group,
            LifecycleHookName: name,
            InstanceId: instanceId,
            LifecycleActionResult: result,
          }),
          { abortSignal },
        ),
      );
    },

    async heartbeat({ group, name }, signal) {
      await call(`wait longer at the hook ${name}`, signal, (abortSignal) =>
        client.send(
          new sdk.RecordLifecycleActionHeartbeatCommand({
            AutoScalingGroupName: group,
            LifecycleHookName: name,
            InstanceId: instanceId,
          }),
          { abortSignal },
        ),
      );
    },

    close: () => client.destroy(),
  };
}

/** Hooks of others, as of a monitoring system, are not to be completed for them. */
function choose(
  found: readonly Hook[],
  { wanted, group, transition }: { wanted: string | undefined; group: string; transition: Transition },
): Hook | undefined {
  const names = found.map(({ name }) => name).join(', ');
  const flag = `--${transition}-hook`;
  if (wanted !== undefined) {
    const hook = found.find(({ name }) => name === wanted);
    if (hook !== undefined) return hook;
    throw new PresyncError(
      'CONFIG_INVALID',
      `the Auto Scaling group ${group} has no hook ${wanted} for the ${transition} of instances`,
      {
        hint:
          names === ''
            ? `add it to the group, or leave ${flag} out`
            : `its hooks are ${names}: name one with ${flag}`,
      },
    );
  }
  if (found.length < 2) return found[0];
  throw new PresyncError(
    'CONFIG_INVALID',
    `the Auto Scaling group ${group} has several hooks for the ${transition} of instances: ${names}`,
    { hint: `say with ${flag} which one presync is to complete` },
  );
}
