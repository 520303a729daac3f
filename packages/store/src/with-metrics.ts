import { type ErrorCode, PresyncError } from '@presync/runtime/errors';
import { bodySize } from './lib/calls.ts';
import type { ObjectStore } from './object-store.ts';

export type StoreOperation = 'stat' | 'read' | 'put' | 'remove' | 'list';

/** One call, after it ended. A listing is one call, however many pages it takes. */
export interface StoreObservation {
  operation: StoreOperation;
  /** `absent`: a stat that found nothing. Otherwise `ok`, or the code of the error; INTERNAL for what is no PresyncError. */
  outcome: 'ok' | 'absent' | ErrorCode;
  /** Seconds, without the time that the consumer of a listing took. */
  seconds: number;
  /** Bytes of objects that were read or put; 0 for a call that failed and for the other operations. */
  bytes: number;
}

/** Where the numbers go. Called once a call; must not throw. */
export interface StoreMetrics {
  observe(observation: StoreObservation): void;
  /** A call is made again after an error with that code. Counted by whoever retries. */
  retried?(cause: ErrorCode): void;
}

/** The same store, with each call told to `metrics`. Inside `withRetry` it counts attempts, outside it counts calls. */
export function withMetrics(store: ObjectStore, metrics: StoreMetrics): ObjectStore {
  async function observed<T>(
    operation: StoreOperation,
    work: () => Promise<T>,
    describe: (result: T) => { bytes?: number; outcome?: 'absent' } = () => ({}),
  ): Promise<T> {
    const began = performance.now();
    const seconds = (): number => (performance.now() - began) / 1000;
    try {
      const result = await work();
      const { bytes = 0, outcome = 'ok' } = describe(result);
      metrics.observe({ operation, outcome, seconds: seconds(), bytes });
      return result;
    } catch (error) {
      metrics.observe({ operation, outcome: outcomeOf(error), seconds: seconds(), bytes: 0 });
      throw error;
    }
  }

  return {
    location: store.location,
    traits: store.traits,
    stat: (key, call) =>
      observed(
        'stat',
        () => store.stat(key, call),
        (found) => (found === undefined ? { outcome: 'absent' } : {}),
      ),
    read: (key, call) =>
      observed(
        'read',
        () => store.read(key, call),
        ({ bytes }) => ({ bytes: bytes.byteLength }),
      ),
    put: (key, body, call) =>
      observed(
        'put',
        () => store.put(key, body, call),
        () => ({ bytes: bodySize(body) }),
      ),
    remove: (key, call) => observed('remove', () => store.remove(key, call)),
    async *list(prefix, call) {
      let seconds = 0;
      let resumed = performance.now();
      let outcome: StoreObservation['outcome'] = 'ok';
      try {
        for await (const info of store.list(prefix, call)) {
          seconds += (performance.now() - resumed) / 1000;
          yield info;
          resumed = performance.now();
        }
        seconds += (performance.now() - resumed) / 1000;
      } catch (error) {
        seconds += (performance.now() - resumed) / 1000;
        outcome = outcomeOf(error);
        throw error;
      } finally {
        metrics.observe({ operation: 'list', outcome, seconds, bytes: 0 });
      }
    },
    close: () => store.close(),
  } satisfies Required<ObjectStore>;
}

function outcomeOf(error: unknown): ErrorCode {
  return error instanceof PresyncError ? error.code : 'INTERNAL';
}
