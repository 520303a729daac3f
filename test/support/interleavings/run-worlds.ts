/**
 * `node run-worlds.ts --from N --count N [--store URL] [--trace]`: runs worlds in this process, one after the other, and prints one JSON line for each. To be
 * started with UV_THREADPOOL_SIZE=1, which the scheduler relies on.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createMemoryStore } from '@presync/store/memory';
import { openStore } from '@presync/store/open';
import { PROFILES } from './profiles.ts';
import { createRandom } from './random.ts';
import { createPool, runWorld } from './world.ts';

const { values } = parseArgs({
  options: {
    from: { type: 'string', default: '1' },
    count: { type: 'string', default: '1' },
    store: { type: 'string' },
    profile: { type: 'string' },
    trace: { type: 'boolean', default: false },
  },
});
if (process.env.UV_THREADPOOL_SIZE !== '1') throw new Error('start this with UV_THREADPOOL_SIZE=1');

/** Each world has a prefix of its own. */
function storeUrlOf(url: string, seed: number): string {
  const query = url.indexOf('?');
  return query < 0 ? `${url}/${seed}` : `${url.slice(0, query)}/${seed}${url.slice(query)}`;
}

const dir = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'presync-worlds-'));
process.once('SIGTERM', () => process.exit(143));
try {
  const pool = await createPool(join(dir, 'pool'));
  const from = Number(values.from);
  for (let seed = from; seed < from + Number(values.count); seed++) {
    // Names of leases and collections decide the order of listings: they come from the seed as well.
    const random = createRandom(seed ^ 0x1d5);
    const hex = (digits: number): string =>
      Array.from({ length: digits }, () => random.below(16).toString(16)).join('');
    crypto.randomUUID = () => `${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`;
    const began = performance.now();
    const store =
      values.store === undefined
        ? createMemoryStore()
        : await openStore(storeUrlOf(values.store, seed), { signal: new AbortController().signal });
    const { trace, ...report } = await runWorld({
      seed,
      store,
      dir: join(dir, String(seed)),
      pool,
      profile: PROFILES.find((profile) => profile === values.profile),
    });
    await store.close();
    const digest = createHash('sha256').update(trace.join('\n')).digest('hex').slice(0, 16);
    const ms = Math.round(performance.now() - began);
    process.stdout.write(
      `${JSON.stringify({ ...report, ms, digest, ...(values.trace ? { trace } : {}) })}\n`,
    );
  }
} finally {
  await rm(dir, { recursive: true, force: true });
}
