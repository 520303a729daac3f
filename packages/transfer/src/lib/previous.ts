import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError } from '@presync/runtime/errors';
import { downloadIndex, type Repository, resolveSnapshot, type Snapshot } from '../repository.ts';
import type { UploadOptions } from '../snapshot.ts';
import type { ChunkTable } from './chunk-table.ts';
import { forEachConcurrent } from './concurrency.ts';
import { createFingerprints, type Fingerprints } from './fingerprints.ts';
import { chunksOf } from './local-index.ts';

/** One listing for each first digit of a digest, side by side. */
const FIRST_DIGITS = [...'0123456789abcdef'];

/**
 * Fills `known` from the snapshot `base`, if it is sound and, where this writer signs, signed by one of its keys. The caller's lease names it, and
 * `latest` was read after that lease was put. Its manifest is read after that as well: while the lease is held, no collector removes its chunks, whether they
 * have tombstones or not. Chunks that are gone all the same, by a rule of the bucket or by hand, are left out: what needs them is then stored
 * anew; `stored: false` is for a repository of which only the documents are kept. `indexPath` is where its index is kept meanwhile.
 */
export async function loadPrevious(
  options: Pick<UploadOptions, 'repository' | 'channel' | 'keys' | 'onEvent' | 'signal'>,
  { base, latest, stored = true }: { base: number; latest: number; stored?: boolean },
  known: Pick<ChunkTable, 'add'>,
  indexPath: string,
): Promise<Snapshot | undefined> {
  const { repository, channel, keys, onEvent, signal } = options;
  const resolve = (snapshot: 'latest' | number, trusted: typeof keys | 'anybody'): Promise<Snapshot> =>
    resolveSnapshot(repository, { channel, snapshot, trusted, allowExpired: true, signal });
  let previous: Snapshot;
  try {
    previous = await resolve(base === latest ? 'latest' : base, 'anybody');
    if (previous.manifest.sequence !== base) previous = await resolve(base, 'anybody');
  } catch (error) {
    // It was the newest when the lease was taken. A later one has come, and a collector has removed it before it saw the lease.
    if (isPresyncError(error, 'SNAPSHOT_NOT_FOUND')) return undefined;
    throw error;
  }
  try {
    if (keys.length > 0) await resolve(base, keys);
    await downloadIndex(repository, previous.manifest, indexPath, { signal });
    const present = stored ? await listPresent(repository, signal) : undefined;
    let gone = 0;
    for await (const chunk of chunksOf(repository, previous.manifest, indexPath, signal)) {
      if (present === undefined || present.has(chunk.sha256)) known.add(chunk);
      else gone += 1;
    }
    if (gone > 0)
      onEvent?.(
        'snapshot.previous_damaged',
        'the snapshot that this one is built upon lacks chunks; they are stored anew where they are needed',
        { sequence: base, gone },
      );
  } catch (error) {
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    // A snapshot that cannot be trusted is not built upon; everything is then offered to the store anew.
    onEvent?.(
      'snapshot.previous_unusable',
      'the newest snapshot cannot be built upon; everything is offered anew',
      { sequence: base, code: error.code, reason: error.message },
    );
  }
  return previous;
}

async function listPresent({ store }: Repository, signal: AbortSignal): Promise<Fingerprints> {
  const present = createFingerprints();
  const concurrency = FIRST_DIGITS.length;
  await forEachConcurrent(FIRST_DIGITS, { concurrency, signal }, async (digit, abort) => {
    for await (const { key } of store.list(`${repositoryKeys.chunks}${digit}`, { signal: abort }))
      present.add(key.slice(key.lastIndexOf('/') + 1));
  });
  return present;
}
