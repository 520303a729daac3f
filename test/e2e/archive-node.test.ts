/** A real node opens what was restored from an archive. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { packFolder } from '../support/archives.ts';
import { hasProgram, needs } from '../support/needs.ts';
import { presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, startNode, unpackFixture } from '../support/real-node.ts';

/** Blocks that the fixtures were left at (test/fixtures/README.md). */
const BEST = { rocksdb: 1208, paritydb: 1475 } as const;

describe(
  'a node',
  needs('a node, tar, zstd and lz4', hasNode() && ['tar', 'zstd', 'lz4'].every(hasProgram)),
  () => {
    for (const [backend, packing, folder] of [
      ['rocksdb', 'lz4', 'db'],
      ['paritydb', 'zst-several', 'paritydb'],
    ] as const) {
      it(`opens a ${backend} from an archive, and builds on it`, async () => {
        const dir = await mkdtemp(join(tmpdir(), 'presync-archive-node-'));
        try {
          await unpackFixture(backend, join(dir, 'source'));
          const archive = await packFolder(join(dir, 'source/chains/dev'), join(dir, 'archive'), {
            members: [folder],
            packing,
          });
          const target = join(dir, 'target');
          await presyncOk([
            ...[
              'restore',
              '--base-path',
              target,
              '--archive',
              archive,
              '--chain',
              'dev',
              '--insecure-no-verify',
            ],
          ]);
          const node = await startNode({ basePath: target, backend, blockTimeMs: 100 });
          try {
            assert.equal(await node.call('chain_getBlockHash', 0), DEV_GENESIS);
            const opened = await node.best();
            assert.ok(opened >= BEST[backend], `it opened at block ${opened}`);
            const deadline = performance.now() + 120_000;
            while ((await node.best()) < opened + 3) {
              assert.ok(performance.now() < deadline, node.log());
              await sleep(50);
            }
          } finally {
            await node.stop();
          }
        } finally {
          await rm(dir, { recursive: true, force: true });
        }
      });
    }
  },
);
