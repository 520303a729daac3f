import { isPresyncError, messageOf } from '@presync/runtime/errors';
import type { Cloud, Instance, Transition } from '../cloud.ts';
import { createGroupApi, type GroupApi } from './cloud-aws-group.ts';
import { beatUntilEnd, completeHook, type Wait } from './cloud-aws-hooks.ts';
import { awsIdentity, awsSources, createImds, TARGET_STATE } from './cloud-aws-metadata.ts';
import { createMetadataClient } from './cloud-metadata.ts';
import { type CloudSinks, watchNotices } from './cloud-watch.ts';
import { sleepQuietly } from './sleep-quietly.ts';

export interface AwsCloudOptions extends CloudSinks {
  /** Of the metadata service. */
  base: string;
  /** Hooks that presync keeps waiting and completes. Default: the only one that the group has for the transition. */
  launchHook?: string | undefined;
  terminationHook?: string | undefined;
}

/** Between attempts to hold, after a failure that is not of a moment, as of permissions. */
const HOLD_AGAIN_MS = 30_000;

/** Among the instance's tags, where those are let into its metadata. */
const GROUP_TAG = 'meta-data/tags/instance/aws:autoscaling:groupName';

/** Targets of instances that are, or will be, in a group; what is in none has no target. */
const MEMBER = /^(?:InService|Standby|Warmed:)/;

/** EC2 with Auto Scaling. An instance of no group has notices, and no hooks. */
export function createAwsCloud({ log, metrics, base, ...hooks }: AwsCloudOptions): Cloud {
  const client = createMetadataClient(base);
  const imds = createImds(client);
  const completed = new Set<string>();
  let opened: Promise<GroupApi> | undefined;

  /** What need not be there. */
  async function maybe(path: string, signal: AbortSignal): Promise<string | undefined> {
    return imds.get(path, signal).catch((error: unknown) => {
      if (isPresyncError(error, 'ABORTED')) throw error;
      return undefined;
    });
  }

  async function openApi(signal: AbortSignal): Promise<GroupApi> {
    const { id, region } = await awsIdentity(imds, signal);
    return createGroupApi({
      log,
      metrics,
      instanceId: id,
      region,
      group: await maybe(GROUP_TAG, signal),
      isMember: async (asked) => MEMBER.test((await maybe(TARGET_STATE, asked)) ?? ''),
      hooks: { launch: hooks.launchHook, termination: hooks.terminationHook },
    });
  }

  async function waitOf(transition: Transition, signal: AbortSignal): Promise<Wait | undefined> {
    opened ??= openApi(signal).catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    const api = await opened;
    const hook = await api.hook(transition, signal);
    return hook === undefined ? undefined : { api, hook, transition, completed, log, metrics };
  }

  async function complete(
    transition: Transition,
    result: 'CONTINUE' | 'ABANDON',
    signal: AbortSignal,
  ): Promise<void> {
    const wait = await waitOf(transition, signal);
    if (wait !== undefined) await completeHook(wait, result, signal);
  }

  return {
    name: 'aws',

    async instance(signal): Promise<Instance> {
      const identity = await awsIdentity(imds, signal);
      return { cloud: 'aws', name: undefined, ...identity, group: await maybe(GROUP_TAG, signal) };
    },

    async hold(transition, signal) {
      for (let failures = 0; !signal.aborted; failures++) {
        try {
          const wait = await waitOf(transition, signal);
          return wait === undefined ? 'nothing' : await beatUntilEnd(wait, signal);
        } catch (error) {
          if (signal.aborted) break;
          metrics?.heartbeats.inc({ outcome: 'failed' });
          const level = failures === 0 ? 'warn' : 'debug';
          log[level](
            'cloud.hold_failed',
            `the group cannot be kept waiting: ${messageOf(error)}; it is tried again`,
            { error },
          );
          await sleepQuietly(HOLD_AGAIN_MS, signal);
        }
      }
      return 'stopped';
    },

    completeLaunch: (result, signal) =>
      complete('launch', result === 'continue' ? 'CONTINUE' : 'ABANDON', signal),

    notices: (signal) => watchNotices(awsSources(imds), { log, metrics }, signal),

    async completeTermination({ kind }, signal) {
      // Of a reboot for maintenance no group knows.
      if (kind === 'scale-in' || kind === 'preemption') await complete('termination', 'CONTINUE', signal);
    },

    close() {
      client.close();
      opened?.then(
        (api) => api.close(),
        () => {},
      );
    },
  };
}

/** True when EC2 answers there. */
export async function isAws(base: string, signal: AbortSignal): Promise<boolean> {
  const client = createMetadataClient(base);
  try {
    await awsIdentity(createImds(client), signal);
    return true;
  } finally {
    client.close();
  }
}
