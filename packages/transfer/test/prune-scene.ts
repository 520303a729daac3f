/** A repository whose source changes, and whose time a test sets: for what retention and collectors do. */
import { randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import type { Clock } from '../src/clock.ts';
import { type PruneOptions, type PruneResult, pruneRepository } from '../src/prune.ts';
import { createWorld, NEVER, sampleTree, scratch, type Tree, type World, writeTree } from './support.ts';

export const HOUR = 3_600_000;

/** A clock that is set by the test; who sleeps on it sets it. */
function handClock(): Clock & { advance(ms: number): void } {
  let passed = 0;
  const began = Date.parse('2026-03-04T05:06:07.000Z');
  return {
    now: () => began + passed,
    elapsed: () => passed,
    // What renews leases and claims sleeps until it is stopped; a run that waits sets the clock forward.
    sleep: (ms, signal) =>
      signal !== NEVER
        ? new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
        : new Promise((resolve) => {
            passed += ms;
            setImmediate(resolve);
          }),
    advance: (ms) => {
      passed += ms;
    },
  };
}

export interface Scene {
  world: World;
  store: ObjectStore;
  clock: ReturnType<typeof handClock>;
  dir: string;
  take(change?: Tree): Promise<void>;
  prune(options?: Partial<PruneOptions>): Promise<PruneResult>;
  keys(prefix: string): Promise<string[]>;
}

export async function createScene(t: TestContext): Promise<Scene> {
  const dir = await scratch(t);
  const store = createMemoryStore();
  const world = await createWorld(dir, store);
  const clock = handClock();
  const tree = sampleTree();
  return {
    world,
    store,
    clock,
    dir,
    async take(change = { '000009.sst': randomBytes(120_000) }) {
      Object.assign(tree, change);
      await writeTree(world.source, tree);
      await world.snapshot({ clock });
    },
    prune: (options = {}) =>
      pruneRepository({
        repository: world.repository,
        keep: { last: 1 },
        graceMs: HOUR,
        scratchDir: dir,
        clock,
        signal: NEVER,
        ...options,
      }),
    async keys(prefix) {
      const keys: string[] = [];
      for await (const { key } of store.list(prefix, { signal: NEVER })) keys.push(key);
      return keys;
    },
  };
}
