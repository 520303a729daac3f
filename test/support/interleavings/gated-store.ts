import { readFile } from 'node:fs/promises';
import { PresyncError } from '@presync/runtime/errors';
import type { ObjectInfo, ObjectStore, PutOptions } from '@presync/store/object-store';
import { MAX_LANDING_MS } from '@presync/transfer/clock';
import type { Model } from './model.ts';
import type { Actor, Scheduler, Step } from './scheduler.ts';

/** What happens to calls, as probabilities. */
export interface Faults {
  /** The answer is an error, and the call is carried out all the same: now, later, or never. */
  lost: number;
  /** A write is carried out a second time later, as one that was made again after its answer was lost. */
  twice: number;
  /** A call takes up to so long as one may. */
  stalled: number;
}

/** A call that waits. */
export interface Call extends Step {
  actor: Actor;
  op: 'stat' | 'read' | 'put' | 'remove' | 'list';
  key: string;
  /** Carries it out before its turn; the actor hears of it at its turn. */
  early(): Promise<void>;
  /** The answer is an error, and the call is carried out when it nearly cannot be any more. */
  lose(): void;
  /** The actor hears nothing any more; the call may be carried out all the same. */
  giveUp(error: PresyncError): void;
}

export interface Gate {
  base: ObjectStore;
  scheduler: Scheduler;
  model: Model;
  faults: Faults;
  /** Keys in a page of a listing. */
  page: number;
  calls: Set<Call>;
  /** Told of each call when it is made: may set when it is due. */
  onCall(call: Call): void;
}

/** A store as one actor sees it: each call is a step. */
export function createGatedStore(gate: Gate, actor: Actor): ObjectStore {
  const { base, scheduler, model, faults, calls } = gate;
  const { random } = scheduler;

  function call<T>(op: Call['op'], key: string, signal: AbortSignal, perform: () => Promise<T>): Promise<T> {
    const writes = op === 'put' || op === 'remove';
    return new Promise<T>((resolve, reject) => {
      if (actor.crashed) {
        reject(crashed());
        return;
      }
      const issued = scheduler.now();
      let outcome: { value: T } | { error: unknown } | undefined;
      const carryOut = async (): Promise<void> => {
        try {
          outcome ??= { value: await perform() };
        } catch (error) {
          outcome ??= { error };
        }
      };
      /** Carries a write out at some time while it still can be. */
      const land = (why: string): void => {
        const left = issued + MAX_LANDING_MS - scheduler.now();
        if (!writes || left <= 0) return;
        scheduler.later(scheduler.now() + random.below(left), `${why} ${op} ${key}`, async () => {
          if (scheduler.now() - issued <= MAX_LANDING_MS) await perform().catch(() => {});
        });
      };
      const answer = (): void => {
        end();
        if (outcome === undefined) return;
        if ('value' in outcome) resolve(outcome.value);
        else reject(outcome.error);
      };
      const end = (): void => {
        calls.delete(step);
        signal.removeEventListener('abort', onAbort);
      };
      const step: Call = {
        actor,
        op,
        key,
        what: `${op} ${key}`,
        due: issued,
        issued,
        early: carryOut,
        lose() {
          outcome = { error: failed('the answer was lost') };
          scheduler.later(issued + MAX_LANDING_MS - 1000, `late ${op} ${key}`, async () => {
            await perform().catch(() => {});
          });
        },
        giveUp(error) {
          end();
          step.due = 0;
          if (outcome === undefined && random.chance(0.5)) land('late');
          reject(error);
        },
        async run() {
          if (!calls.has(step)) return;
          if (outcome === undefined && writes && scheduler.now() - issued > MAX_LANDING_MS) {
            outcome = { error: failed('it took too long') };
          } else if (outcome === undefined && random.chance(faults.lost)) {
            if (random.chance(0.5)) await carryOut();
            else land('late');
            outcome = { error: failed('the answer was lost') };
          } else {
            await carryOut();
            if (random.chance(faults.twice)) land('twice');
          }
          answer();
        },
      };
      const onAbort = (): void =>
        step.giveUp(
          signal.reason instanceof PresyncError ? signal.reason : new PresyncError('ABORTED', 'stopped'),
        );
      if (signal.aborted) {
        onAbort();
        return;
      }
      signal.addEventListener('abort', onAbort, { once: true });
      calls.add(step);
      if (random.chance(faults.stalled)) step.due = issued + random.below(MAX_LANDING_MS);
      gate.onCall(step);
      scheduler.step(step);
    });
  }

  return {
    location: base.location,
    traits: base.traits,
    stat: (key, options) => call('stat', key, options.signal, () => base.stat(key, NEVER)),
    read: (key, options) => call('read', key, options.signal, () => base.read(key, { ...options, ...NEVER })),
    async put(key, body, options: PutOptions) {
      // The caller may use the buffer again, and a call may be carried out later.
      const bytes = body instanceof Uint8Array ? Uint8Array.from(body) : await readFile(body.path);
      return call('put', key, options.signal, async () => {
        const answer = await base.put(key, bytes, { ...options, ...NEVER });
        model.put(key, bytes);
        return answer;
      });
    },
    remove(key, options) {
      const { run } = actor;
      return call('remove', key, options.signal, async () => {
        await base.remove(key, NEVER);
        model.remove(key, run);
      });
    },
    async *list(prefix, { signal }): AsyncGenerator<ObjectInfo> {
      for (let last = ''; ; ) {
        const page = await call('list', prefix, signal, async () => {
          const found: ObjectInfo[] = [];
          for await (const info of base.list(prefix, NEVER)) {
            if (info.key > last) found.push(info);
            if (found.length >= gate.page) break;
          }
          return found;
        });
        yield* page;
        if (page.length < gate.page) return;
        last = page.at(-1)?.key ?? '';
      }
    },
    close: async () => {},
  };
}

const NEVER = { signal: new AbortController().signal };

function failed(why: string): PresyncError {
  return new PresyncError('STORE_FAILED', why, { retryable: true });
}

export function crashed(): PresyncError {
  return new PresyncError('ABORTED', 'the process has crashed');
}
