import type { Manifest } from '@presync/format/manifest';
import type { PublicKey } from '@presync/format/signature';
import { type ErrorCode, isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { ComposedSources } from '@presync/store/compose';
import type { ObjectStore } from '@presync/store/object-store';
import { readFailed } from '@presync/transfer/failed';
import { assertNotQuarantined } from '@presync/transfer/proof';
import {
  openRepository,
  type Repository,
  resolveSnapshot,
  type Snapshot,
} from '@presync/transfer/repository';
import { readSeen } from '@presync/transfer/seen';
import { type Candidate, candidatesOf } from './lib/candidates.ts';
import { chooseChannel } from './lib/choose-channel.ts';
import { assertForThisNode, assertNotTooOld, type Fit, isTooOld } from './lib/fit.ts';
import { keepToRepository } from './lib/same-repository.ts';

/** What is done when a snapshot is no good, in the order that is configured. */
export type Fallback = 'older' | 'peer' | 'warp' | 'fail';

export interface ChooseOptions extends Fit {
  /** Where snapshots come from. The caller closes them. */
  from: ComposedSources;
  /** Default: the repository's only channel, or the only one for such a node. */
  channel?: string | undefined;
  snapshot: 'latest' | 'pinned' | number;
  /** The newest snapshot that holds no block above this one. `snapshot` is then of no account. */
  toBlock?: number | undefined;
  /** Take the snapshot that is asked for by its number although it has not passed its proof. */
  allowQuarantined?: boolean | undefined;
  trusted: readonly PublicKey[] | 'anybody';
  /** Default: fail. */
  fallback?: readonly Fallback[] | undefined;
  /** Take also what failed on this machine before. */
  retryFailed?: boolean | undefined;
  stateDir: string;
  log: Logger;
  signal: AbortSignal;
}

export interface FoundSnapshot {
  repository: Repository;
  channel: string;
  snapshot: Snapshot;
}

export type Chosen = ({ kind: 'snapshot' } & FoundSnapshot) | { kind: 'warp' };

/** A snapshot that is not used, and why. */
export interface PassedOver {
  /** The source's location. */
  source: string;
  channel: string | null;
  /** Null where it is not known, as for the newest one whose pointer is damaged. */
  sequence: number | null;
  code: ErrorCode;
  reason: string;
}

export interface Choice {
  /**
   * The next one that is fit. What was asked for comes from the first source that has it; then the fall-backs follow in their order.
   * When nothing is left, what spoke against the one that was asked for is thrown.
   */
  next(): Promise<Chosen>;
  /** What `next` gave is not to be used after all. */
  pass(error: PresyncError): void;
  readonly passed: readonly PassedOver[];
}

/** Older snapshots that are looked at, each one small object: damage that goes further back is not mended by looking on. */
const MAX_OLDER = 32;
/** Snapshots that are searched for the right block. */
const MAX_SEARCHED = 1000;

/** A channel of a repository, as one source gives it. */
interface Line {
  store: ObjectStore;
  repository: Repository;
  channel: string;
  candidates: AsyncGenerator<Candidate>;
  /** Taken from the candidates before its time. */
  waiting: Candidate | undefined;
  found: boolean;
  /** Nothing more is to be had from it. */
  ended: boolean;
  looks: number;
}

export function createChoice(options: ChooseOptions): Choice {
  const { from, log, signal, stateDir, toBlock } = options;
  const passed: PassedOver[] = [];
  const refusals: PresyncError[] = [];
  const failedBefore = new Map<string, string>();
  /** Manifests that were looked at: other roads lead to the same ones. */
  const judged = new Set<string>();
  const isLastWord = from.stores.length === 1 && (options.fallback ?? ['fail'])[0] === 'fail';
  /** Of the stores that were asked; undefined for one that holds no channel for this machine. */
  const lines = new Map<ObjectStore, Line | undefined>();
  let channel = options.channel;
  let last: FoundSnapshot | undefined;
  const road = walk();

  function refuse(source: string, sequence: number | null, error: PresyncError): void {
    refusals.push(error);
    note(source, sequence, error);
  }

  function note(source: string, sequence: number | null, { code, message }: PresyncError): void {
    passed.push({ source, channel: channel ?? null, sequence, code, reason: message });
    // Nothing follows, and the error itself says it.
    if (isLastWord && toBlock === undefined) return;
    const known = { source, code, sequence };
    if (sequence !== null) log.warn('restore.passed_over', message, known);
    else log.warn('source.unfit', `${source} has no fit snapshot: ${message}`, known);
  }

  async function* walk(): AsyncGenerator<Chosen> {
    await rememberFailures();
    const first = await wanted(from.stores);
    if (first !== undefined) yield { kind: 'snapshot', ...first };
    for (const step of options.fallback ?? []) {
      if (step === 'fail') return;
      // What is older is even farther from the chain's head.
      if (step === 'older' && refusals.some(({ code }) => code === 'WARP_SYNC_FASTER')) continue;
      log.warn('restore.fell_back', FALLING_BACK[step], { fallback: step });
      if (step === 'warp') {
        yield { kind: 'warp' };
        return;
      }
      for await (const found of step === 'older' ? older() : others()) yield { kind: 'snapshot', ...found };
    }
  }

  async function rememberFailures(): Promise<void> {
    if (options.retryFailed === true) return;
    const { failures, unreadable } = await readFailed(stateDir);
    if (unreadable !== undefined)
      log.warn('restore.failures_unreadable', `what failed here before is not known: ${unreadable}`);
    for (const { manifest, at, code, reason } of failures)
      failedBefore.set(manifest, `at ${at}: ${code}: ${reason}`);
  }

  /** What was asked for, from the first of the stores that has it. */
  async function wanted(stores: readonly ObjectStore[]): Promise<FoundSnapshot | undefined> {
    for (const store of stores) {
      const line = await lineOf(store);
      const found = line === undefined ? undefined : await take(line, false);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async function* older(): AsyncGenerator<FoundSnapshot> {
    const repositories = new Set<string>();
    for (const line of lines.values()) {
      // Another road to a repository has no other snapshots.
      if (line === undefined || repositories.has(line.repository.id)) continue;
      repositories.add(line.repository.id);
      for (let found = await take(line, true); found !== undefined; found = await take(line, true))
        yield found;
    }
  }

  /** The snapshots of sources with another repository than those that were used. */
  async function* others(): AsyncGenerator<FoundSnapshot> {
    const used = new Set(
      [...lines.values()].flatMap((line) => (line === undefined ? [] : line.repository.id)),
    );
    for (const store of from.stores) {
      if (lines.has(store)) continue;
      const line = await lineOf(store);
      if (line === undefined || used.has(line.repository.id)) continue;
      used.add(line.repository.id);
      const found = await take(line, false);
      if (found !== undefined) yield found;
    }
  }

  async function lineOf(store: ObjectStore): Promise<Line | undefined> {
    try {
      const mirrors = from.stores.filter((other) => other !== store);
      const repository = await openRepository(store, { sources: from.sources, mirrors, signal });
      const listable = await listableOf(repository);
      channel ??= await chooseChannel(listable ?? repository, options);
      const line = await openLine(store, repository, listable, channel);
      lines.set(store, line);
      return line;
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error)) throw error;
      lines.set(store, undefined);
      refuse(store.location, null, error);
      return undefined;
    }
  }

  async function openLine(
    store: ObjectStore,
    repository: Repository,
    listable: Repository | undefined,
    name: string,
  ): Promise<Line> {
    const seen = await readSeen({ stateDir, repositoryId: repository.id, channel: name });
    const candidates = candidatesOf({
      repository,
      listable,
      channel: name,
      snapshot: options.snapshot,
      search: toBlock !== undefined,
      found: () => line.found,
      floor: seen?.sequence ?? 0,
      signal,
    });
    const line: Line = {
      store,
      repository,
      channel: name,
      candidates,
      waiting: undefined,
      found: false,
      ended: false,
      looks: 0,
    };
    return line;
  }

  /** The repository itself, or another road to it that can be listed: a web server cannot say what it holds. */
  async function listableOf(repository: Repository): Promise<Repository | undefined> {
    if (repository.store.traits.listable) return repository;
    for (const store of from.stores) {
      if (!store.traits.listable) continue;
      try {
        const other = await openRepository(store, { signal });
        if (other.id === repository.id) return other;
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error)) throw error;
      }
    }
    return undefined;
  }

  /** The next fit snapshot of a line. Without `orOlder`, only what was asked for. */
  async function take(line: Line, orOlder: boolean): Promise<FoundSnapshot | undefined> {
    while (!line.ended) {
      const candidate = await nextCandidate(line);
      if (candidate === undefined) return undefined;
      if (candidate.older && !orOlder) {
        line.waiting = candidate;
        return undefined;
      }
      line.looks += 1;
      if (line.looks > (toBlock === undefined ? MAX_OLDER : MAX_SEARCHED)) return undefined;
      const found = await look(line, candidate);
      line.ended = found === 'stop';
      if (found === undefined || found === 'stop') continue;
      line.found = true;
      last = { repository: line.repository, channel: line.channel, snapshot: found };
      await keepToRepository(line.repository, { from, log, signal });
      return last;
    }
    return undefined;
  }

  async function nextCandidate(line: Line): Promise<Candidate | undefined> {
    const { waiting } = line;
    line.waiting = undefined;
    if (waiting !== undefined) return waiting;
    try {
      const { value, done } = await line.candidates.next();
      if (done !== true) return value;
      if (toBlock !== undefined && !line.found) throw nothingBelow(line, toBlock);
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error)) throw error;
      refuse(line.store.location, null, error);
    }
    return undefined;
  }

  /** The snapshot if it is fit; `stop` when none that is older can be. */
  async function look(
    { store, repository, channel: name }: Line,
    { reference, older: isOlder }: Candidate,
  ): Promise<Snapshot | 'stop' | undefined> {
    const sequence = reference === 'latest' ? null : reference;
    let snapshot: Snapshot | undefined;
    try {
      snapshot = await resolveSnapshot(repository, {
        channel: name,
        snapshot: reference,
        trusted: options.trusted,
        genesisHash: options.genesisHash,
        seen: await readSeen({ stateDir, repositoryId: repository.id, channel: name }),
        signal,
      });
      if (judged.has(snapshot.sha256)) return undefined;
      judged.add(snapshot.sha256);
      if (toBlock !== undefined && !holdsAtMost(snapshot.manifest, toBlock)) return undefined;
      assertForThisNode(snapshot.manifest, options);
      assertNotTooOld(snapshot.manifest, options);
      if (reference !== 'latest' && options.allowQuarantined !== true)
        await assertNotQuarantined(repository, snapshot, { signal });
      assertNotFailed(snapshot);
      return snapshot;
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error)) throw error;
      // A number that retention has removed, in a store that cannot be listed.
      if ((isOlder || toBlock !== undefined) && snapshot === undefined && error.code === 'SNAPSHOT_NOT_FOUND')
        return undefined;
      const tried = snapshot?.manifest.sequence ?? sequence;
      // A search goes on beyond what cannot be read, and says itself that there was nothing.
      if (toBlock !== undefined) note(store.location, tried, error);
      else refuse(store.location, tried, error);
      if (error.exitCode === 7) return 'stop';
      return snapshot !== undefined && isTooOld(snapshot.manifest, options) ? 'stop' : undefined;
    }
  }

  function assertNotFailed({ manifest, sha256 }: Snapshot): void {
    const before = failedBefore.get(sha256);
    if (before === undefined) return;
    throw new PresyncError(
      'SNAPSHOT_FAILED_BEFORE',
      `snapshot ${manifest.channel}#${manifest.sequence} failed on this machine ${before}`,
      {
        hint: 'take another one (--snapshot, --fallback older), or say --retry-failed when the repository was mended',
      },
    );
  }

  return {
    passed,
    async next() {
      const { value, done } = await road.next();
      if (done !== true) return value;
      throw refusals[0] ?? new PresyncError('INTERNAL', 'no source was asked for a snapshot');
    },
    pass(error) {
      if (last === undefined) return;
      const { snapshot, repository } = last;
      failedBefore.set(snapshot.sha256, `just now: ${error.code}: ${error.message}`);
      refuse(repository.store.location, snapshot.manifest.sequence, error);
    },
  };
}

const FALLING_BACK: Readonly<Record<Exclude<Fallback, 'fail'>, string>> = {
  older: 'falling back to older snapshots (--fallback older)',
  peer: 'falling back to the other sources (--fallback peer)',
  warp: 'falling back to warp sync: nothing is restored (--fallback warp)',
};

/** True when the copy can hold no block above. Only the head, an upper bound, can tell; a stopped node told none. */
function holdsAtMost({ chain }: Manifest, block: number): boolean {
  const highest = chain.head ?? chain.anchor;
  return highest !== null && highest.number <= block;
}

function nothingBelow({ channel }: Line, block: number): PresyncError {
  return new PresyncError(
    'SNAPSHOT_NOT_FOUND',
    `channel ${channel} has no usable snapshot that is known to hold no block above ${block}`,
    { hint: '"presync list" shows the blocks that each snapshot holds' },
  );
}
