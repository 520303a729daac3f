import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PrivateKey } from '@presync/format/signature';
import { type ErrorCode, isPresyncError, messageOf } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { StoreMetrics } from '@presync/store/with-metrics';
import { createWorld, writeTree } from '../../packages/transfer/test/support.ts';

export interface PublishManyOptions {
  /** Called once for each publisher. */
  openStore: (metrics: StoreMetrics) => Promise<ObjectStore>;
  dir: string;
  publishers: number;
  /** Snapshots that each takes, one after the other. */
  rounds: number;
  keys: readonly PrivateKey[];
  startAt: number;
  forgetful?: boolean | undefined;
}

export interface PublishResult {
  published: Published[];
  failed: { code: ErrorCode | 'RAW'; message: string; hint: string | undefined }[];
  /** Conditional puts that lost. */
  lost: number;
}

export interface Published {
  sequence: number;
  /** Of the manifest. */
  sha256: string;
  previous: { sequence: number; sha256: string } | null;
  promoted: boolean;
}

const CHUNK_SIZE = 64 * 1024;

/** Takes snapshots of small databases, all at once, into one channel of one repository, which the first of them makes. */
export async function publishMany(options: PublishManyOptions): Promise<PublishResult> {
  const result: PublishResult = { published: [], failed: [], lost: 0 };
  const metrics: StoreMetrics = {
    observe: ({ outcome }) => {
      if (outcome === 'CONDITION_FAILED') result.lost += 1;
    },
  };
  await Promise.all(
    Array.from({ length: options.publishers }, async (_, number) => {
      try {
        await publishOne(options, number, metrics, result.published);
      } catch (error) {
        result.failed.push(
          isPresyncError(error)
            ? { code: error.code, message: error.message, hint: error.hint }
            : { code: 'RAW', message: messageOf(error), hint: undefined },
        );
      }
    }),
  );
  return result;
}

async function publishOne(
  { openStore, dir, rounds, keys, startAt, forgetful = false }: PublishManyOptions,
  number: number,
  metrics: StoreMetrics,
  published: Published[],
): Promise<void> {
  const own = join(dir, `publisher-${number}`);
  const opened = await openStore(metrics);
  const store = forgetful ? withoutConditions(opened) : opened;
  try {
    await sleep(Math.max(0, startAt - Date.now()));
    const world = await createWorld(own, store, CHUNK_SIZE);
    for (let round = 1; round <= rounds; round++) {
      // Something that all have, and something that nobody else has.
      await writeTree(world.source, {
        '000001.sst': Buffer.alloc(5000, 'shared'),
        [`00000${round + 1}.sst`]: randomBytes(3000),
        CURRENT: Buffer.from('MANIFEST-000001\n'),
      });
      const { manifest, manifestSha256, promoted } = await world.snapshot({
        keys,
        concurrency: 1,
        prove: number % 2 === 0 ? 'none' : 'sample',
      });
      const { sequence, previous } = manifest;
      published.push({ sequence, sha256: manifestSha256, previous, promoted });
    }
  } finally {
    await opened.close();
  }
}

function withoutConditions(store: ObjectStore): ObjectStore {
  return {
    ...store,
    put: (key, body, options) => store.put(key, body, { ...options, condition: undefined }),
  };
}
