import { hash, randomBytes } from 'node:crypto';
import { throwIfAborted } from '@presync/runtime/errors';
import { newCorner } from './conformance.ts';
import { type LeftObject, trackPuts } from './lib/tracked-puts.ts';
import type { CallOptions, ObjectInfo, ObjectStore } from './object-store.ts';

/** So many calls at a time, and what came of it. */
export interface SpeedPoint {
  concurrency: number;
  calls: number;
  bytes: number;
  seconds: number;
  bytesPerSecond: number;
  /** Milliseconds of a whole call. */
  medianMs: number;
  p95Ms: number;
}

export interface Speed {
  /** In the order of the concurrencies; fewer than asked for when the line was full before. */
  points: readonly SpeedPoint[];
  /** The smallest concurrency within 5 % of the best; undefined when no call ended in time. */
  recommended: number | undefined;
}

export interface SpeedOptions extends CallOptions {
  /** Bytes of an object that is put. */
  objectBytes: number;
  /** Calls at a time, in rising order. As many objects are held in memory. */
  concurrencies: readonly number[];
  /** Milliseconds for all of it, more or less. Calls that take longer are given up. */
  budgetMs: number;
  onPoint?: ((operation: 'put' | 'get', point: SpeedPoint) => void) | undefined;
  /** Told of what could not be removed again, also when the measurement rejects. */
  onLeft?: ((left: readonly LeftObject[]) => void) | undefined;
  /** Another clock, for tests. */
  clock?: Clock | undefined;
}

/** What tells the time. */
export interface Clock {
  /** Milliseconds. */
  now(): number;
  /** A signal that fires after so many milliseconds. */
  timeout(ms: number): AbortSignal;
}

const CLOCK: Clock = { now: () => performance.now(), timeout: (ms) => AbortSignal.timeout(ms) };

/** An object of which enough is known to read it. */
export type Readable = Pick<ObjectInfo, 'key' | 'size'>;

/** A concurrency is as good as the best when it gives so much of its throughput: more calls at a time cost memory, and the store's patience. */
const GOOD_ENOUGH = 0.95;

/** Bytes that are put at one concurrency, and twice as many objects as calls at least: enough to measure, and not too much to pay for. */
const PUT_BYTES = 128 * 1024 * 1024;

/** A concurrency is given so many times its share of the time before its calls are given up. */
const PATIENCE = 4;

/**
 * Measures puts, and then gets of what was put, which lies under `checks/` and is removed again.
 *
 * @throws PresyncError of the store; what was put is removed all the same.
 */
export async function measureSpeed(
  store: ObjectStore,
  options: SpeedOptions,
): Promise<{ put: Speed; get: Speed }> {
  const { objectBytes, signal, onPoint, onLeft } = options;
  const levelMs = options.budgetMs / (2 * options.concurrencies.length);
  const corner = newCorner();
  const tracked = trackPuts(store, corner);
  // All puts send the same bytes: no store compresses or shares them before it has them.
  const body = randomBytes(objectBytes);
  const sha256 = hash('sha256', body, 'hex');
  const objects: Readable[] = [];
  try {
    const put = await climb({
      ...options,
      levelMs,
      maxCalls: (concurrency) => Math.max(2 * concurrency, Math.ceil(PUT_BYTES / objectBytes)),
      call: async (index, callSignal) => {
        const key = `${corner}${index}`;
        await tracked.store.put(key, body, { condition: { ifAbsent: true }, sha256, signal: callSignal });
        objects.push({ key, size: objectBytes });
        return objectBytes;
      },
      onPoint: (point) => onPoint?.('put', point),
      signal,
    });
    const get = await measureGets(tracked.store, objects, { ...options, budgetMs: options.budgetMs / 2 });
    return { put, get };
  } finally {
    const left = await tracked.cleanUp();
    onLeft?.(left);
  }
}

/** Measures gets of objects that are there. */
export async function measureGets(
  store: ObjectStore,
  objects: readonly Readable[],
  options: SpeedOptions,
): Promise<Speed> {
  const { concurrencies, budgetMs, onPoint, signal } = options;
  return climb({
    ...options,
    levelMs: budgetMs / concurrencies.length,
    maxCalls: () => (objects.length === 0 ? 0 : Number.POSITIVE_INFINITY),
    call: async (index, callSignal) => {
      const object = objects[index % objects.length];
      if (object === undefined) return 0;
      const { bytes } = await store.read(object.key, { maxBytes: object.size, signal: callSignal });
      return bytes.length;
    },
    onPoint: (point) => onPoint?.('get', point),
    signal,
  });
}

interface Climb extends CallOptions {
  clock?: Clock | undefined;
  concurrencies: readonly number[];
  levelMs: number;
  maxCalls: (concurrency: number) => number;
  /** Gives the bytes that it moved. */
  call: (index: number, signal: AbortSignal) => Promise<number>;
  onPoint: (point: SpeedPoint) => void;
}

async function climb(options: Climb): Promise<Speed> {
  const { concurrencies, levelMs, onPoint } = options;
  const points: SpeedPoint[] = [];
  let first = 0;
  for (const [index, concurrency] of concurrencies.entries()) {
    const { point, begun } = await measureLevel(concurrency, first, options);
    first += begun;
    if (point === undefined) break;
    points.push(point);
    onPoint(point);
    // At the rate that was reached, would the next round of calls end in time?
    const next = (concurrencies[index + 1] ?? 0) * (point.bytes / point.calls);
    if ((next / point.bytesPerSecond) * 1000 > 2 * levelMs) break;
  }
  return { points, recommended: recommend(points) };
}

async function measureLevel(
  concurrency: number,
  first: number,
  { levelMs, maxCalls, call, clock = CLOCK, signal }: Climb,
): Promise<{ point: SpeedPoint | undefined; begun: number }> {
  const patience = clock.timeout(PATIENCE * levelMs);
  const failed = new AbortController();
  const callSignal = AbortSignal.any([signal, patience, failed.signal]);
  const most = maxCalls(concurrency);
  const durations: number[] = [];
  let begun = 0;
  let bytes = 0;
  const began = clock.now();
  async function worker(): Promise<void> {
    while (begun < most && clock.now() - began < levelMs && !callSignal.aborted) {
      const index = first + begun++;
      const callBegan = clock.now();
      try {
        const moved = await call(index, callSignal);
        bytes += moved;
        durations.push(clock.now() - callBegan);
      } catch (error) {
        throwIfAborted(signal);
        if (patience.aborted) return;
        failed.abort(error);
        throw error;
      }
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: concurrency }, worker));
  throwIfAborted(signal);
  if (failed.signal.aborted) throw failed.signal.reason;
  for (const one of ended) if (one.status === 'rejected') throw one.reason;
  const seconds = (clock.now() - began) / 1000;
  if (durations.length === 0) return { point: undefined, begun };
  durations.sort((a, b) => a - b);
  const point = {
    concurrency,
    calls: durations.length,
    bytes,
    seconds,
    bytesPerSecond: bytes / seconds,
    medianMs: quantile(durations, 0.5),
    p95Ms: quantile(durations, 0.95),
  };
  return { point, begun };
}

/** Of sorted values, the one below which that part of them lies. */
function quantile(sorted: readonly number[], part: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? Number.NaN;
}

/** The smallest concurrency that is as good as the best. */
export function recommend(points: readonly SpeedPoint[]): number | undefined {
  const best = Math.max(...points.map(({ bytesPerSecond }) => bytesPerSecond));
  return points.find(({ bytesPerSecond }) => bytesPerSecond >= GOOD_ENOUGH * best)?.concurrency;
}
