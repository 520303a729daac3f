/** A snapshot and a restore on S3 servers of a region of their own, with a URL that says only where they are and how to write. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type HttpFront, startHttpFront } from '../support/http-front.ts';
import { findMinio, startMinio } from '../support/minio-server.ts';
import { needs } from '../support/needs.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, unpackFixture } from '../support/real-node.ts';
import { findS3Server, startS3Server } from '../support/s3-server.ts';
import { assertSameDatabase } from '../support/tree.ts';

/** A front of the server that looks at what is put. */
interface Watched {
  front: HttpFront;
  /** By key, without the bucket and the prefix. */
  written: Map<string, { storageClass: unknown; sse: unknown; tags: unknown }>;
}

async function watch(endpoint: string): Promise<Watched> {
  const written: Watched['written'] = new Map();
  const front = await startHttpFront(endpoint, (line, { headers }) => {
    const [, key] = /^PUT \/[^/]+\/p\/([^?]+)/.exec(line) ?? [];
    if (key !== undefined && !key.startsWith('probes/')) {
      written.set(key, {
        storageClass: headers['x-amz-storage-class'],
        sse: headers['x-amz-server-side-encryption'],
        tags: headers['x-amz-tagging'],
      });
    }
    return 'pass';
  });
  return { front, written };
}

for (const [name, found, start, sse] of [
  ['versitygw', findS3Server() !== undefined, startS3Server, undefined],
  ['minio', findMinio() !== undefined, startMinio, 'AES256'],
] as const) {
  describe(`a bare URL of ${name}`, needs(name, found), () => {
    it('is enough for a snapshot and a restore; the class is that of chunks only', async (t) => {
      const server = await start({ region: 'eu-test-7' });
      t.after(() => server.stop());
      const { front, written } = await watch(server.endpoint);
      t.after(() => front.stop());
      const dir = await mkdtemp(join(tmpdir(), 'presync-s3-settings-'));
      t.after(() => rm(dir, { recursive: true, force: true }));
      const key = join(dir, 'key.pem');
      const base = join(dir, 'source');
      await unpackFixture('rocksdb', base);
      await presyncOk(['keys', 'new', '--out', key]);
      const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
      const writes = `storageClass=REDUCED_REDUNDANCY&tags=team=nodes${sse === undefined ? '' : `&sse=${sse}`}`;
      const store = `s3://${server.bucket}/p?endpoint=${encodeURIComponent(front.endpoint)}`;
      const env = { ...server.env, AWS_CONFIG_FILE: '/none', AWS_SHARED_CREDENTIALS_FILE: '/none' };
      const taken = await presync(
        [
          ...['snapshot', '--base-path', base, '--pause', 'none', '--genesis', DEV_GENESIS],
          ...['--store', `${store}&${writes}`, '--sign-key', key, '--state-dir', join(dir, 'state')],
        ],
        { env },
      );
      assert.equal(taken.code, 0, taken.stderr);
      assert.match(taken.stderr, /region=eu-test-7/);
      const chunks = [...written].filter(([path]) => path.startsWith('chunks/'));
      assert.ok(chunks.length > 0);
      for (const [path, { storageClass, ...rest }] of written) {
        assert.equal(storageClass, path.startsWith('chunks/') ? 'REDUCED_REDUNDANCY' : undefined, path);
        assert.deepEqual(rest, { sse, tags: 'team=nodes' }, path);
      }
      await presyncOk(
        [
          ...['restore', '--base-path', join(dir, 'target'), '--store', store, '--trust', trust],
          ...['--state-dir', join(dir, 'target-state')],
        ],
        { env },
      );
      const folder = 'chains/dev/db/full';
      await assertSameDatabase(join(base, folder), join(dir, 'target', folder));
    });
  });
}
