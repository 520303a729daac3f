import { isPresyncError, throwIfAborted } from '@presync/runtime/errors';
import { pinnedSequences } from '@presync/transfer/pins';
import { listSequences, type Repository, readLatest } from '@presync/transfer/repository';

/** A snapshot that may be the one. */
export interface Candidate {
  reference: 'latest' | number;
  /** True for what only a fall-back to older ones may take. */
  older: boolean;
}

export interface CandidatesOptions {
  repository: Repository;
  /** Stores of the same repository that can be listed, where its own cannot. */
  listable: Repository | undefined;
  channel: string;
  snapshot: 'latest' | 'pinned' | number;
  /** Search from the newest down, and take none for an older one until `found` says that there was one. */
  search: boolean;
  found: () => boolean;
  /** What this machine has accepted before: older ones are not taken in place of `latest`. */
  floor: number;
  signal: AbortSignal;
}

/** Numbers that are tried one by one in a store that cannot be listed. */
const MAX_PROBES = 64;

/** What was asked for, and then what is older, the newest first. */
export async function* candidatesOf(options: CandidatesOptions): AsyncGenerator<Candidate> {
  const { snapshot } = options;
  if (options.search) {
    for await (const reference of numbersDown(options)) yield { reference, older: options.found() };
    return;
  }
  if (snapshot === 'pinned') {
    const pinned = await pinnedSequences(options.listable ?? options.repository, options.channel, options);
    for (const [index, reference] of pinned.entries()) yield { reference, older: index > 0 };
    return;
  }
  yield { reference: snapshot, older: false };
  for await (const reference of numbersDown(options)) {
    if (snapshot === 'latest' ? reference >= options.floor : reference < snapshot)
      yield { reference, older: true };
  }
}

/**
 * Finished snapshots from the newest down. What is above `latest` was never promoted; only a pointer that cannot be read, or that was set back, tells
 * nothing of that.
 */
async function* numbersDown(options: CandidatesOptions): AsyncGenerator<number> {
  const { repository, listable, channel, floor, signal } = options;
  const newest = await newestNumber(repository, channel, signal);
  const most = newest === undefined || newest < floor ? Number.POSITIVE_INFINITY : newest;
  if (listable !== undefined) {
    const numbers = await listSequences(listable, channel, { signal });
    yield* numbers.filter((number) => number <= most).toReversed();
    return;
  }
  const from = newest ?? floor;
  for (let number = from; number > Math.max(0, from - MAX_PROBES); number--) yield number;
}

async function newestNumber(
  repository: Repository,
  channel: string,
  signal: AbortSignal,
): Promise<number | undefined> {
  try {
    return (await readLatest(repository, channel, { signal }))?.document.sequence;
  } catch (error) {
    throwIfAborted(signal);
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    return undefined;
  }
}
