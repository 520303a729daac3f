import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError, messageOf, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Group } from '../group.ts';

interface GroupContext {
  group?: Group | undefined;
  log: Logger;
  signal: AbortSignal;
}

/** Tells the group again and again that the launch goes on, until the returned function is called. A failure is told once. */
export function startHeartbeats({ group, log, signal }: GroupContext): () => Promise<void> {
  const every = group?.heartbeatMs;
  if (group === undefined || every === undefined) return async () => {};
  const end = new AbortController();
  const either = AbortSignal.any([signal, end.signal]);
  const beating = (async () => {
    let told = false;
    while (!either.aborted) {
      try {
        await group.heartbeat(either);
        told = false;
      } catch (error) {
        if (either.aborted) return;
        if (!told)
          log.warn(
            'group.heartbeat_failed',
            `the group was not told that the launch goes on: ${messageOf(error)}`,
          );
        told = true;
      }
      await sleep(every, undefined, { signal: either }).catch(() => {});
    }
  })();
  return async () => {
    end.abort();
    await beating;
  };
}

const ATTEMPTS = 6;
const FIRST_PAUSE_MS = 1000;

/** Tells the group that the instance may serve. Why not, when it cannot be told: the node is right all the same. */
export async function joinGroup({
  group,
  firstPauseMs = FIRST_PAUSE_MS,
  log,
  signal,
}: GroupContext & { firstPauseMs?: number | undefined }): Promise<string | undefined> {
  if (group === undefined) return undefined;
  for (let attempt = 1; ; attempt++) {
    try {
      await group.completeLaunch('continue', signal);
      log.info('group.joined', 'the group knows that this instance may serve');
      return undefined;
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error)) throw error;
      if (attempt === ATTEMPTS) {
        log.error(
          'group.join_failed',
          `the group was not told that this instance may serve: ${error.message}`,
          {
            code: error.code,
            hint: error.hint ?? null,
          },
        );
        return error.message;
      }
      await sleep(firstPauseMs * 2 ** (attempt - 1), undefined, { signal }).catch(() => {});
      throwIfAborted(signal);
    }
  }
}

/** Tells the group that this instance will never serve, so that it need not wait for its timer. */
export async function abandonLaunch({ group, log, signal }: GroupContext): Promise<void> {
  if (group === undefined || signal.aborted) return;
  try {
    await group.completeLaunch('abandon', signal);
    log.warn('group.abandoned', 'the group knows that this instance is of no use');
  } catch (error) {
    log.warn(
      'group.join_failed',
      `the group was not told that this instance is of no use: ${messageOf(error)}`,
    );
  }
}
