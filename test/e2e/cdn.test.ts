/** nginx and Varnish as CDN in front of an S3 server: what they may keep, what they must ask for again, and what happens when they forget. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { needs } from '../support/needs.ts';
import { findNginx, startNginx } from '../support/nginx.ts';
import { presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, unpackFixture } from '../support/real-node.ts';
import { findS3Server, putBucketPolicy, startS3Server } from '../support/s3-server.ts';
import { assertSameDatabase } from '../support/tree.ts';
import { findVarnish, startVarnish } from '../support/varnish.ts';

interface Cdn {
  url: string;
  /** Forgets everything that is kept. */
  purge(): Promise<void>;
}

/** Starts a CDN for a path below an S3 server. */
type StartCdn = (t: TestContext, s3Port: number, path: string) => Promise<Cdn>;

const varnish: StartCdn = async (t, s3Port, path) => {
  const server = await startVarnish(s3Port, path);
  t.after(() => server.stop());
  return {
    url: server.url,
    purge: async () => {
      assert.equal((await fetch(server.url, { method: 'PURGE' })).status, 200);
    },
  };
};

const nginx: StartCdn = async (t, s3Port, path) => {
  let cache = '';
  const server = await startNginx((port, dir) => {
    cache = join(dir, 'cache');
    return `  proxy_cache_path ${cache} levels=1:2 keys_zone=objects:4m max_size=256m inactive=1h use_temp_path=off;
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://127.0.0.1:${s3Port}${path}/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache objects;
      proxy_cache_revalidate on;
      add_header x-cache $upstream_cache_status;
    }
  }`;
  });
  t.after(() => server.stop());
  return {
    url: server.url,
    // The files only: nginx does not make the folders again.
    purge: async () => {
      await promisify(execFile)('find', [cache, '-type', 'f', '-delete']);
    },
  };
};

interface World {
  dir: string;
  base: string;
  cdn: Cdn;
  trust: string;
  snapshot(): Promise<void>;
  restore(name: string): Promise<{ sequence: number }>;
  /** GET through the CDN: its status, and whether it was a hit. */
  get(path: string): Promise<{ status: number; hit: boolean; cacheControl: string | null }>;
  /** A chunk's path. */
  chunk(): Promise<string>;
}

async function createCdnWorld(t: TestContext, start: StartCdn): Promise<World> {
  const s3 = await startS3Server();
  t.after(() => s3.stop());
  // Anybody may read the bucket's objects, as behind a CDN without an identity of its own.
  await putBucketPolicy(s3, [{ principal: '*', actions: ['s3:GetObject'] }]);
  const dir = await mkdtemp(join(tmpdir(), 'presync-cdn-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const base = join(dir, 'source');
  await unpackFixture('rocksdb', base);
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const store = s3.url.replace('?', '/presync?');
  const { port } = new URL(s3.endpoint);
  const cdn = await start(t, Number(port), `/${s3.bucket}/presync`);
  return {
    dir,
    base,
    cdn,
    trust,
    snapshot: async () => {
      await presyncOk(
        [
          ...['snapshot', '--base-path', base, '--store', store, '--pause', 'none', '--genesis', DEV_GENESIS],
          ...['--sign-key', key, '--state-dir', join(dir, 'source-state'), '--chunk-size', '64KiB'],
        ],
        { env: s3.env },
      );
    },
    restore: async (name) => {
      const { stdout } = await presyncOk([
        ...[
          'restore',
          '--base-path',
          join(dir, name),
          '--store',
          cdn.url,
          '--channel',
          'dev/rocksdb',
          '--json',
        ],
        ...['--trust', trust, '--state-dir', join(dir, `${name}-state`)],
      ]);
      return JSON.parse(stdout);
    },
    get: async (path) => {
      const answer = await fetch(`${cdn.url}/${path}`);
      await answer.arrayBuffer();
      const { headers, status } = answer;
      return {
        status,
        hit: headers.get('x-cache')?.toLowerCase() === 'hit',
        cacheControl: headers.get('cache-control'),
      };
    },
    chunk: async () => {
      const { stdout } = await promisify(execFile)('find', [
        join(s3.dir, s3.bucket, 'presync', 'chunks'),
        '-type',
        'f',
        '-size',
        '+1k',
      ]);
      const [first = ''] = stdout.trim().split('\n').sort();
      return first.slice(first.indexOf('chunks/'));
    },
  };
}

async function assertSame(world: World, name: string): Promise<void> {
  const folder = 'chains/dev/db/full';
  await assertSameDatabase(join(world.base, folder), join(world.dir, name, folder));
}

for (const [name, start, found] of [
  ['nginx', nginx, findNginx()],
  ['Varnish', varnish, findVarnish()],
] as const) {
  describe(
    `${name} in front of an S3 server`,
    needs(`${name} and versitygw`, found !== undefined && findS3Server() !== undefined),
    () => {
      it('keeps chunks and asks for everything else again; a purge or a promotion in the middle harms nobody', async (t) => {
        const world = await createCdnWorld(t, start);
        await world.snapshot();
        assert.equal((await world.restore('cold')).sequence, 1);
        await assertSame(world, 'cold');

        const chunk = await world.chunk();
        const kept = await world.get(chunk);
        assert.ok(kept.hit, 'a chunk that was restored is not kept');
        assert.match(kept.cacheControl ?? '', /immutable/);
        for (const path of [
          'presync.json',
          'channels/dev/rocksdb/latest.json',
          'snapshots/dev/rocksdb/1/manifest.json',
        ]) {
          await world.get(path);
          const again = await world.get(path);
          assert.equal(again.status, 200);
          assert.ok(!again.hit, `${path} comes from the cache`);
        }
        await world.restore('warm');
        await assertSame(world, 'warm');

        const purged = world.restore('purged');
        await world.cdn.purge();
        await purged;
        await assertSame(world, 'purged');

        // A promotion while a restore is under way: that one ends as it began, the next one sees the new snapshot at once.
        const during = world.restore('during');
        await world.snapshot();
        assert.ok([1, 2].includes((await during).sequence));
        await assertSame(world, 'during');
        assert.equal((await world.restore('after')).sequence, 2);
        await assertSame(world, 'after');
      });
    },
  );
}
