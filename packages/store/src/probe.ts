import { randomBytes } from 'node:crypto';
import { type ErrorCode, isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { CallOptions, ObjectStore, PutCondition } from './object-store.ts';

const FIRST = Buffer.from('presync: a probe for conditional writes, which may be deleted\n');
const SECOND = Buffer.from('presync: a probe that replaced another one, which may be deleted\n');
const THIRD = Buffer.from('presync: a probe that should never have been stored\n');

const CLEANUP_MS = 30_000;

/** An answer that was mixed up with another one on its way gives these, too: only a store that fails each time is unfit. */
const DOUBTFUL: ReadonlySet<ErrorCode> = new Set([
  'STORE_NO_CONDITIONAL_WRITES',
  'CONDITION_FAILED',
  'OBJECT_NOT_FOUND',
  'OBJECT_TOO_LARGE',
]);
const ATTEMPTS = 3;

/**
 * Proves that the store honours conditional writes, on objects of its own under `probes/`, which it removes again.
 * To be called before anything is published: some servers ignore the conditions, or take If-Match on a missing object
 * (minio#21526). It proves the checks, not that they are atomic; for that, run the conformance suite.
 *
 * @throws PresyncError STORE_NO_CONDITIONAL_WRITES; STORE_READ_ONLY or STORE_FORBIDDEN when it cannot write at all.
 */
export async function proveConditionalWrites(store: ObjectStore, { signal }: CallOptions): Promise<void> {
  if (!store.traits.writable) {
    throw new PresyncError('STORE_READ_ONLY', `${store.location} can only be read`, {
      hint: 'publish to a file or bucket URL',
    });
  }
  for (let attempt = 1; ; attempt++) {
    try {
      await proveOnce(store, signal);
      return;
    } catch (error) {
      if (attempt >= ATTEMPTS || !isPresyncError(error) || !DOUBTFUL.has(error.code)) throw error;
    }
  }
}

async function proveOnce(store: ObjectStore, signal: AbortSignal): Promise<void> {
  const id = randomBytes(12).toString('hex');
  const key = `probes/${id}-present`;
  const missing = `probes/${id}-missing`;
  let failure: unknown;
  try {
    await prove(store, key, missing, signal);
  } catch (error) {
    failure = error;
  }
  try {
    // Also after an abort, which must not leave the probes behind.
    const cleanup = AbortSignal.timeout(CLEANUP_MS);
    await store.remove(key, { signal: cleanup });
    await store.remove(missing, { signal: cleanup });
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw failure;
}

async function prove(store: ObjectStore, key: string, missing: string, signal: AbortSignal): Promise<void> {
  const first = await store.put(key, FIRST, { condition: { ifAbsent: true }, signal });
  await mustRefuse(store, key, { ifAbsent: true }, 'a create-only put replaced an object', signal);
  const second = await store.put(key, SECOND, { condition: { ifVersion: first.version }, signal });
  await mustRefuse(
    store,
    key,
    { ifVersion: first.version },
    'a put for an older version replaced a newer one',
    signal,
  );
  await mustRefuse(
    store,
    missing,
    { ifVersion: second.version },
    'a replacing put made an object that was not there',
    signal,
  );
  const { bytes } = await store.read(key, { maxBytes: SECOND.length * 2, signal });
  if (Buffer.compare(bytes, SECOND) !== 0)
    throw unfit(store, 'a put that was refused changed the object all the same');
}

async function mustRefuse(
  store: ObjectStore,
  key: string,
  condition: PutCondition,
  failure: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    await store.put(key, THIRD, { condition, signal });
  } catch (error) {
    if (isPresyncError(error, 'CONDITION_FAILED')) return;
    throw error;
  }
  throw unfit(store, failure);
}

function unfit(store: ObjectStore, what: string): PresyncError {
  return new PresyncError(
    'STORE_NO_CONDITIONAL_WRITES',
    `${store.location} does not honour conditional writes: ${what}`,
    {
      hint: 'publish to a store that honours If-Match and If-None-Match on PutObject; this one can only be read from',
    },
  );
}
