/** What the tests of clouds share. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cloud, Notice } from '@presync/bootstrap/cloud';
import { type OpenCloudOptions, openCloud } from '@presync/bootstrap/open-cloud';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { createMetrics, Registry } from '@presync/runtime/metrics';

export interface Recorded {
  log: Logger;
  /** `level event` of each record. */
  said: string[];
  /** How often that was said. */
  count(what: string): number;
}

export function recordingLog(): Recorded {
  const said: string[] = [];
  const level =
    (name: string) =>
    (event: string): void =>
      void said.push(`${name} ${event}`);
  const log: Logger = {
    debug: level('debug'),
    info: level('info'),
    warn: level('warn'),
    error: level('error'),
    child: () => log,
  };
  return { log, said, count: (what) => said.filter((record) => record === what).length };
}

/** A cloud with its metadata at `metadata`, and all that it says. */
export async function openAt(
  name: Cloud['name'],
  metadata: string,
  options: Partial<OpenCloudOptions> = {},
): Promise<{ cloud: Cloud; recorded: Recorded; registry: Registry }> {
  const recorded = recordingLog();
  const registry = new Registry();
  const cloud = await openCloud(name, {
    log: recorded.log,
    metrics: createMetrics(registry).cloud,
    metadata,
    signal: AbortSignal.timeout(60_000),
    ...options,
  });
  assert.ok(cloud !== undefined);
  return { cloud, recorded, registry };
}

/** Listens to a cloud's notices. */
export function listen(cloud: Cloud): {
  /** What has come so far. */
  notices: Notice[];
  /** The first one that is so; fails after 40 s. */
  until(is: (notice: Notice) => boolean): Promise<Notice>;
  stop(): Promise<void>;
} {
  const controller = new AbortController();
  const notices: Notice[] = [];
  const ended = (async () => {
    for await (const notice of cloud.notices(controller.signal)) notices.push(notice);
  })();
  return {
    notices,
    async until(is) {
      for (const end = Date.now() + 40_000; Date.now() < end; ) {
        const found = notices.find(is);
        if (found !== undefined) return found;
        await sleep(20);
      }
      return assert.fail(`no such notice among ${JSON.stringify(notices)}`);
    },
    async stop() {
      controller.abort();
      await ended;
    },
  };
}

/** Waits until something is so; fails after 40 s. */
export async function eventually(is: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 40_000; !is(); ) {
    if (Date.now() > end) assert.fail(`never: ${what}`);
    await sleep(20);
  }
}

/** The PresyncError with which a call fails. */
export async function failure(call: Promise<unknown>): Promise<PresyncError> {
  try {
    await call;
  } catch (error) {
    assert.ok(isPresyncError(error), String(error));
    assert.ok(error.hint !== undefined || error.code === 'ABORTED', `${error.code} has no hint`);
    return error;
  }
  return assert.fail('the call succeeded');
}
