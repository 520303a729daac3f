import {
  type ErrorCode,
  isPresyncError,
  messageOf,
  PresyncError,
  throwIfAborted,
} from '@presync/runtime/errors';
import { type AdaptiveLimit, createAdaptiveLimit } from './lib/adaptive-limit.ts';
import { firstOf } from './lib/first-of.ts';
import { sleep } from './lib/sleep.ts';
import type { CallOptions, ObjectStore } from './object-store.ts';

/**
 * Several stores with the same objects, in the order in which they are to be asked: a CDN, the bucket behind it, another machine.
 * Made for objects that can be proved, since one of the stores may give anything.
 */
export interface Sources {
  /**
   * Reads an object and hands it to `prove`, which may take the buffer for itself. Rejects with CHUNK_CORRUPT when it is not the
   * right one; then, as after every failure, the next source is asked. An answer that takes much longer than others is hedged: a
   * second call is made, and the first that ends counts. Sources that failed are left alone for a while.
   *
   * Rejects with the error that says most when no source has it: CHUNK_CORRUPT before OBJECT_NOT_FOUND before a store's own.
   */
  fetch(
    key: string,
    options: CallOptions & { maxBytes: number },
    prove: (bytes: Uint8Array) => Promise<void>,
  ): Promise<void>;
  /** Asks the sources at a location no more, as one that turned out to hold other objects. */
  leaveOut(location: string, reason: string): void;
  /** Asks the sources at a location again, and believes them anew, whatever came from there before. */
  takeIn(location: string): void;
  /** What each source did so far, in their order. */
  report(): SourceReport[];
}

export interface SourceReport {
  location: string;
  /** Objects and bytes that came from here and were right. */
  objects: number;
  bytes: number;
  /** Calls that failed, by error code. */
  failures: Partial<Record<ErrorCode, number>>;
  /** Second calls that were made here because another one was slow. */
  hedges: number;
  /** Calls that were given up because another one was faster. */
  abandoned: number;
  /** Why the source is not asked any more; absent while it is. */
  dropped?: string | undefined;
}

export interface SourcesOptions {
  /** One at least. Without retries of their own: this is the layer that asks again. */
  stores: readonly ObjectStore[];
  /** Calls under way at most. Default 64. */
  maxConcurrency?: number | undefined;
  /** False for exactly `maxConcurrency` places from the start. */
  adaptive?: boolean | undefined;
  /** Times that all sources are asked before a fetch fails. Default 8, which with the delays lasts half a minute and more. */
  rounds?: number | undefined;
  /** Upper bound of the first delay between rounds, milliseconds; it doubles up to 20 s. Default 250. */
  minDelayMs?: number | undefined;
  /** An answer is slow when it takes longer than this and five times the median, milliseconds. Default 2000. */
  minHedgeMs?: number | undefined;
  onEvent?: ((event: SourceEvent) => void) | undefined;
}

export interface SourceEvent {
  kind: 'failed' | 'dropped' | 'hedged';
  location: string;
  key: string;
  reason: string;
}

/**
 * Times that an object may come damaged from a source before that counts as what the source has: it may be damaged on the way. Where there
 * are others, they are asked sooner.
 */
const DAMAGED_ALONE = 4;
const DAMAGED_AMONG_OTHERS = 2;
/** The wait before a damaged object is asked for again; doubles. A connection whose answers have got mixed up is closed by then. */
const DAMAGED_WAIT_MS = 50;
/** Objects that came damaged after which a source is not believed any more. */
const MAX_CORRUPT = 3;
/** Failures in a row after which a source rests; a single one is what networks do. */
const FAILURES_BEFORE_REST = 3;
/** How long it rests, milliseconds; doubles each time until a call succeeds again. */
const REST_MS = 1000;
const MAX_REST_MS = 30_000;
const MAX_DELAY_MS = 20_000;
/** A `Retry-After` is obeyed up to this long. */
const MAX_RETRY_AFTER_MS = 120_000;
/** Fetches whose time is remembered to tell what is slow. */
const REMEMBERED = 64;
const SLOW_FACTOR = 5;
/** Fetches that are remembered before the median tells anything, and what counts as slow until then, milliseconds. */
const ENOUGH_TIMES = 8;
const SLOW_AT_FIRST_MS = 10_000;
/** Shares of the fetches that may be hedged: where everything is slow, a second call to the same source only adds to it. */
const HEDGE_SHARE = 0.1;
const HEDGE_SHARE_ELSEWHERE = 0.5;
const FREE_HEDGES = 4;

interface Source {
  store: ObjectStore;
  report: SourceReport;
  restUntil: number;
  failuresInARow: number;
  corrupt: number;
  /** Calls under way. */
  calls: number;
}

export function createSources(options: SourcesOptions): Sources {
  const { rounds = 8, minDelayMs = 250, minHedgeMs = 2000, maxConcurrency = 64 } = options;
  const sources: Source[] = options.stores.map((store) => ({
    store,
    report: { location: store.location, objects: 0, bytes: 0, failures: {}, hedges: 0, abandoned: 0 },
    restUntil: 0,
    failuresInARow: 0,
    corrupt: 0,
    calls: 0,
  }));
  const limit: AdaptiveLimit = createAdaptiveLimit({
    max: maxConcurrency,
    initial: options.adaptive === false ? maxConcurrency : undefined,
  });
  const times: number[] = [];
  let fetches = 0;
  let hedges = 0;

  const tell = (kind: SourceEvent['kind'], source: Source, key: string, reason: string): void =>
    options.onEvent?.({ kind, location: source.store.location, key, reason });

  /**
   * Sources to ask for an object, best first. Those that rest are not asked while others are there; one that has rested is asked by one call
   * at a time until one succeeds.
   */
  function inOrder(excluded: ReadonlySet<Source>): Source[] {
    const usable = sources.filter((source) => source.report.dropped === undefined && !excluded.has(source));
    const now = performance.now();
    const awake = usable.filter(
      ({ restUntil, failuresInARow, calls }) =>
        restUntil <= now && (failuresInARow < FAILURES_BEFORE_REST || calls === 0),
    );
    return awake.length > 0 ? awake : usable;
  }

  function slowMs(): number {
    if (times.length < ENOUGH_TIMES) return Math.max(minHedgeMs, SLOW_AT_FIRST_MS);
    const median = times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0;
    return Math.max(minHedgeMs, SLOW_FACTOR * median);
  }

  function mayHedge(elsewhere: boolean): boolean {
    return hedges < FREE_HEDGES + fetches * (elsewhere ? HEDGE_SHARE_ELSEWHERE : HEDGE_SHARE);
  }

  async function readFrom(
    source: Source,
    key: string,
    maxBytes: number,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    const began = performance.now();
    source.calls += 1;
    try {
      const { bytes } = await source.store.read(key, { maxBytes, signal });
      // Only answers that came tell what is usual: what was given up would make slow look normal.
      times.push(performance.now() - began);
      if (times.length > REMEMBERED) times.shift();
      return bytes;
    } finally {
      source.calls -= 1;
    }
  }

  /** One read, with a second one elsewhere (or over a new connection) when it is slow. */
  async function readHedged(
    first: Source,
    key: string,
    { maxBytes, signal }: CallOptions & { maxBytes: number },
    excluded: ReadonlySet<Source>,
  ): Promise<{ source: Source; bytes: Uint8Array }> {
    // One place for the object: a helper must not wait behind the calls that are stuck.
    const release = await limit.acquire(signal);
    let received = 0;
    const began = performance.now();
    const race = firstOf<Source, Uint8Array>(first, {
      signal,
      patienceMs: slowMs(),
      run: (source, abort) => readFrom(source, key, maxBytes, abort),
      another: (tried) => {
        const other = inOrder(new Set([...excluded, ...tried]))[0];
        // Without another source a new connection to the same one may do better.
        if (other === undefined && (sources.length > 1 || tried.length > 1)) return undefined;
        // What replaces a helper that failed is no further call.
        if (tried.length === 1) {
          if (!mayHedge(other !== undefined)) return undefined;
          hedges += 1;
        }
        const helper = other ?? first;
        helper.report.hedges += 1;
        const waited = Math.round(performance.now() - began);
        tell('hedged', first, key, `no answer for ${waited} ms; asking ${helper.store.location} too`);
        return helper;
      },
      onLost: (source) => {
        source.report.abandoned += 1;
        if (source === first) fellBehind(source);
      },
    });
    try {
      const { who, result } = await race;
      received = result.byteLength;
      return { source: who, bytes: result };
    } finally {
      release(received);
    }
  }

  function failed(source: Source, key: string, error: PresyncError): void {
    const { code } = error;
    source.report.failures[code] = (source.report.failures[code] ?? 0) + 1;
    tell('failed', source, key, messageOf(error));
    if (code === 'OBJECT_NOT_FOUND') return;
    if (code === 'CHUNK_CORRUPT' || code === 'OBJECT_TOO_LARGE') {
      source.corrupt += 1;
      if (source.corrupt >= MAX_CORRUPT && sources.length > 1)
        drop(source, key, `${source.corrupt} objects were not what their names say`);
      return;
    }
    if (!error.retryable) {
      if (sources.length > 1) drop(source, key, messageOf(error));
      return;
    }
    limit.backOff();
    fellBehind(source, error.retryAfterMs);
  }

  /** After a few failures in a row a source is left alone for a while, longer each time. */
  function fellBehind(source: Source, retryAfterMs = 0): void {
    const now = performance.now();
    // Calls that were under way when the source fell ill say nothing new.
    if (source.restUntil > now) return;
    source.failuresInARow += 1;
    const times = source.failuresInARow - FAILURES_BEFORE_REST;
    const rest = times < 0 ? 0 : Math.min(MAX_REST_MS, REST_MS * 2 ** times);
    source.restUntil = now + Math.max(rest, Math.min(retryAfterMs, MAX_RETRY_AFTER_MS));
  }

  function drop(source: Source, key: string, reason: string): void {
    source.report.dropped ??= reason;
    tell('dropped', source, key, reason);
  }

  return {
    async fetch(key, call, prove) {
      fetches += 1;
      const { signal } = call;
      /** Those that cannot have it right, this time or at all. */
      const out = new Set<Source>();
      const damaged = new Map<Source, number>();
      const errors: PresyncError[] = [];
      for (let round = 1; ; round++) {
        const asked = new Set<Source>(out);
        for (let [source] = inOrder(asked); source !== undefined; [source] = inOrder(asked)) {
          throwIfAborted(signal);
          // A hedged read may end at another source, whose failure it then is.
          let giver = source;
          let here = false;
          try {
            const answer = await readHedged(source, key, call, asked);
            giver = answer.source;
            // Before it is handed over: whoever proves it may take the buffer away.
            const received = answer.bytes.byteLength;
            here = true;
            await prove(answer.bytes);
            giver.report.objects += 1;
            giver.report.bytes += received;
            giver.failuresInARow = 0;
            giver.restUntil = 0;
            return;
          } catch (error) {
            throwIfAborted(signal);
            // What goes wrong on this machine, as a full disk, no other source will mend.
            if (!(error instanceof PresyncError) || (here && error.code !== 'CHUNK_CORRUPT')) throw error;
            errors.push(error);
            failed(giver, key, error);
            if (error.code === 'OBJECT_NOT_FOUND') out.add(giver);
            else if (error.code === 'CHUNK_CORRUPT' || error.code === 'OBJECT_TOO_LARGE') {
              const times = (damaged.get(giver) ?? 0) + 1;
              damaged.set(giver, times);
              if (times < (sources.length > 1 ? DAMAGED_AMONG_OTHERS : DAMAGED_ALONE)) {
                await sleep(DAMAGED_WAIT_MS * 2 ** (times - 1), signal);
                continue;
              }
              out.add(giver);
            } else if (!error.retryable) out.add(giver);
            asked.add(giver);
          }
        }
        const left = inOrder(out);
        if (left.length === 0 || round >= rounds) throw worst(errors);
        const bound = Math.min(MAX_DELAY_MS, minDelayMs * 2 ** (round - 1));
        const asleep = Math.max(0, Math.min(...left.map(({ restUntil }) => restUntil)) - performance.now());
        await sleep(Math.min(asleep, MAX_RETRY_AFTER_MS) + Math.random() * bound, signal);
      }
    },
    leaveOut(location, reason) {
      for (const { store, report } of sources) if (store.location === location) report.dropped ??= reason;
    },
    takeIn(location) {
      for (const source of sources) {
        if (source.store.location !== location) continue;
        delete source.report.dropped;
        source.corrupt = 0;
        source.failuresInARow = 0;
        source.restUntil = 0;
      }
    },
    report: () => sources.map(({ report }) => ({ ...report, failures: { ...report.failures } })),
  };
}

/** The error that tells most of why nobody has the object. */
function worst(errors: readonly PresyncError[]): PresyncError {
  const found =
    errors.findLast((error) => isPresyncError(error, 'CHUNK_CORRUPT')) ??
    errors.findLast((error) => isPresyncError(error, 'OBJECT_TOO_LARGE')) ??
    errors.findLast((error) => error.retryable) ??
    errors.at(-1);
  return (
    found ?? new PresyncError('STORE_FAILED', 'all sources were dropped', { hint: 'look at the log for why' })
  );
}
