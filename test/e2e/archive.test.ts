/** Restoring from archives that others publish: every packing and layout, from a web server and from a file. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { cp, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type Packing, packFolder, publishFileList } from '../support/archives.ts';
import { createScene, type Scene } from '../support/bad-input.ts';
import { hasProgram, needs } from '../support/needs.ts';
import { findNginx, type Nginx, startNginx, staticSite } from '../support/nginx.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { type FixtureBackend, unpackFixture } from '../support/real-node.ts';
import { assertSameDatabase } from '../support/tree.ts';

const KIND = { rocksdb: 'db', paritydb: 'paritydb' } as const;
const PROGRAMS = ['tar', 'zstd', 'lz4', 'gzip'];

interface Document {
  archive: {
    location: string;
    kind: string;
    compression: string | null;
    size: number | null;
    version: string | null;
  };
  chain: string;
  backend: string;
  targets: string[];
  kept: boolean;
  restored: {
    files: number;
    bytes: number;
    fetchedBytes: number;
    keptFiles: number;
    skipped: { count: number; names: string[] };
    sha256: string | null;
    proved: boolean;
    wasSealed: boolean;
  } | null;
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

describe(
  'an archive that others publish',
  needs('nginx, tar, zstd, lz4 and gzip', findNginx() !== undefined && PROGRAMS.every(hasProgram)),
  () => {
    const cleanups: (() => Promise<void>)[] = [];
    let scene: Scene;
    let site: string;
    let nginx: Nginx;
    const databases: Record<FixtureBackend, string> = { rocksdb: '', paritydb: '' };

    before(async () => {
      scene = await createScene({ after: (fn) => void cleanups.push(fn) });
      site = join(scene.dir, 'site');
      await mkdir(site);
      for (const backend of ['rocksdb', 'paritydb'] as const) {
        // A base path with keys and everything else that a node has there.
        const base = join(scene.dir, `base-${backend}`);
        await unpackFixture(backend, base);
        databases[backend] = join(base, 'chains/dev', KIND[backend], 'full');
        for (const [path, text] of [
          ['chains/dev/keystore/6175', '"//Alice"'],
          ['chains/dev/network/secret_ed25519', 'secret'],
          [`chains/dev/${KIND[backend]}/full/parachains/db/CURRENT`, 'MANIFEST-000001\n'],
        ] as const) {
          await mkdir(join(base, path, '..'), { recursive: true });
          await writeFile(join(base, path), text);
        }
      }
      nginx = await startNginx((port) => staticSite(port, site));
    });
    after(async () => {
      await nginx?.stop();
      for (const cleanup of cleanups) await cleanup();
    });
    beforeEach(() => rm(scene.target, { recursive: true, force: true }));

    const args = (archive: string, ...more: string[]): string[] => [
      ...['restore', '--base-path', scene.target, '--archive', archive, '--state-dir', scene.stateDir],
      ...['--json', ...more],
    ];

    /** Restores, compares every byte, and gives what the command said. */
    async function restores(backend: FixtureBackend, archive: string, ...more: string[]): Promise<Document> {
      const trust = more.includes('--archive-sha256') ? [] : ['--insecure-no-verify'];
      const { json, stderr } = await presyncOk(args(archive, ...trust, ...more));
      const document = json as Document;
      const place = join(scene.target, 'chains/dev', KIND[backend]);
      await assertSameDatabase(await withoutFolders(databases[backend]), join(place, 'full'));
      assert.deepEqual(await readdir(place), ['full'], 'something is left beside the database');
      assert.deepEqual(
        await readdir(join(scene.target, 'chains/dev')),
        [KIND[backend]],
        'more than the database was written',
      );
      assert.deepEqual(document.targets, [join(place, 'full')]);
      assert.equal(document.chain, 'dev');
      assert.equal(document.backend, backend);
      assert.equal(document.restored?.files, (await readdir(join(place, 'full'))).length);
      if (trust.length > 0) {
        assert.equal(document.restored?.proved, false);
        assert.match(stderr, /INSECURE: nothing proves this archive/);
      }
      return document;
    }

    /** The database folder without what lies below it: a copy, since folders do not count. */
    async function withoutFolders(dir: string): Promise<string> {
      const copy = join(scene.dir, 'flat', dir.includes('paritydb') ? 'paritydb' : 'rocksdb');
      if ((await stat(copy).catch(() => undefined)) !== undefined) return copy;
      await mkdir(copy, { recursive: true });
      for (const entry of await readdir(dir, { withFileTypes: true }))
        if (entry.isFile()) await cp(join(dir, entry.name), join(copy, entry.name));
      return copy;
    }

    for (const packing of [
      'tar',
      'zst',
      'zst-several',
      'lz4',
      'lz4-several',
      'gz',
      'gz-several',
    ] as const satisfies Packing[]) {
      it(`${packing}: a base path, with all that is in it`, async () => {
        const name = `${packing}.archive`;
        const path = await packFolder(join(scene.dir, 'base-rocksdb'), join(site, name), {
          members: ['chains'],
          packing,
        });
        const { size } = await stat(path);
        const sha256 = await sha256Of(path);
        for (const archive of [path, `${nginx.url}/${name}`]) {
          const { archive: source, restored } = await restores('rocksdb', archive);
          assert.equal(source.location, archive);
          assert.equal(source.size, size);
          assert.equal(
            source.compression,
            { tar: 'none', zst: 'zstd', lz4: 'lz4', gz: 'gzip' }[packing.split('-')[0] ?? ''],
          );
          assert.equal(restored?.sha256, sha256);
          assert.equal(restored?.fetchedBytes, size);
          for (const skipped of [
            'chains/dev/keystore/6175',
            'chains/dev/network/secret_ed25519',
            'chains/dev/db/full/LOG',
          ])
            assert.ok(restored?.skipped.names.includes(skipped), skipped);
          await rm(scene.target, { recursive: true });
        }
        await rm(path);
      });
    }

    for (const [what, backend, dir, members, chain] of [
      ['the chain folder, as most publish it', 'paritydb', 'chains/dev', ['paritydb'], true],
      ['the chain folder with everything', 'rocksdb', 'chains/dev', ['.'], true],
      ['the database folder', 'rocksdb', 'chains/dev/db', ['full'], true],
      ['the files at the top', 'paritydb', 'chains/dev/paritydb/full', ['.'], true],
      ['the base path', 'rocksdb', '.', ['.'], false],
      ['a folder above the base path', 'rocksdb', '..', ['base-rocksdb'], false],
    ] as const) {
      it(`${what}: ${backend}${backend === 'paritydb' ? ', whose zeros come back as holes' : ''}`, async () => {
        const path = await packFolder(join(scene.dir, `base-${backend}`, dir), join(site, 'layout.tar.zst'), {
          members,
          packing: 'zst',
        });
        const document = await restores(
          backend,
          `${nginx.url}/layout.tar.zst`,
          ...(chain ? ['--chain', 'dev'] : []),
        );
        await rm(path);
        if (backend === 'rocksdb') return;
        const [apparent, allocated] = await sizes(document.targets[0] ?? '');
        const [, before] = await sizes(await withoutFolders(databases.paritydb));
        assert.equal(apparent, document.restored?.bytes);
        assert.ok(allocated < apparent / 2, `${allocated} of ${apparent} bytes are on disk`);
        assert.ok(allocated <= before * 1.1, `${allocated} bytes on disk, the source has ${before}`);
      });
    }

    it('what presync export wrote', async () => {
      await presyncOk(scene.snapshotArgs('--base-path', await cleanBase('rocksdb'), '--prove', 'none'));
      const out = join(site, 'exported.tar.zst');
      await presyncOk([
        ...[
          'export',
          '--store',
          scene.store,
          '--trust',
          scene.trust,
          '--state-dir',
          scene.stateDir,
          '--out',
          out,
        ],
      ]);
      await restores('rocksdb', `${nginx.url}/exported.tar.zst`);
    });

    /** The fixture as it is, without what would stop a snapshot. */
    async function cleanBase(backend: FixtureBackend): Promise<string> {
      const dir = join(scene.dir, `clean-${backend}`);
      await unpackFixture(backend, dir);
      return dir;
    }

    it('whose SHA-256 is demanded', async () => {
      const path = await packFolder(join(scene.dir, 'base-rocksdb'), join(site, 'sum.tar'), {
        members: ['chains'],
      });
      const sha256 = await sha256Of(path);
      const { restored } = await restores(
        'rocksdb',
        `${nginx.url}/sum.tar`,
        '--archive-sha256',
        sha256.toUpperCase(),
      );
      assert.equal(restored?.proved, true);
      await rm(scene.target, { recursive: true });
      const wrong = sha256.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
      const outcome = await presync(args(path, '--archive-sha256', wrong, '--insecure-no-verify'));
      assert.equal(outcome.code, 4);
      assert.match(outcome.stdout, /ARCHIVE_MISMATCH/);
      assert.deepEqual(await readdir(scene.target).catch(() => []), []);
    });

    it('through a pipe', async () => {
      await packFolder(join(scene.dir, 'base-rocksdb'), join(site, 'pipe.tar.gz'), {
        members: ['chains'],
        packing: 'gz',
      });
      const fifo = join(scene.dir, 'fifo');
      execFileSync('mkfifo', [fifo]);
      const { spawn } = await import('node:child_process');
      const writer = spawn('sh', ['-c', 'cat "$1" > "$2"', 'sh', join(site, 'pipe.tar.gz'), fifo], {
        stdio: 'ignore',
      });
      const { archive } = await restores('rocksdb', fifo);
      assert.equal(archive.size, null);
      assert.notEqual(writer.exitCode, 1);
    });

    it('over a database that is there', async () => {
      await packFolder(join(scene.dir, 'base-rocksdb'), join(site, 'over.tar'), { members: ['chains'] });
      const archive = join(site, 'over.tar');
      const full = join(scene.target, 'chains/dev/db/full');
      await mkdir(full, { recursive: true });
      await writeFile(join(full, 'CURRENT'), 'MANIFEST-000001\n');
      await writeFile(join(full, '000999.sst'), 'old');
      const unproved = ['--insecure-no-verify'];
      const kept = await presyncOk(args(archive, ...unproved, '--existing', 'keep'));
      assert.equal((kept.json as Document).kept, true);
      const dry = await presyncOk(args(archive, ...unproved, '--existing', 'replace', '--dry-run'));
      assert.equal((dry.json as Document).restored, null);
      assert.deepEqual((await readdir(full)).sort(), ['000999.sst', 'CURRENT']);
      await restores('rocksdb', archive, '--existing', 'replace', '--yes');
    });

    it('told in words', async () => {
      await packFolder(join(scene.dir, 'base-rocksdb'), join(site, 'words.tar'), { members: ['chains'] });
      const run = args(`${nginx.url}/words.tar`, '--insecure-no-verify').filter((word) => word !== '--json');
      const dry = await presyncOk([...run, '--dry-run']);
      assert.match(dry.stdout, /would be restored to .*Nothing was done\./);
      const { stdout } = await presyncOk(run);
      for (const line of [
        /The rocksdb database of chain dev in http:.*words\.tar is restored to/,
        /left out {4}\d+ files/,
        /sha256 {6}[0-9a-f]{64}/,
        /NOT PROVED {2}nothing says/,
      ])
        assert.match(stdout, line);
    });

    describe('as a file list', () => {
      const VERSION = '20240102-030405';
      let list = '';
      before(async () => {
        list = join(site, 'polkadot-rocksdb-prune');
        const versioned = join(list, VERSION);
        const from = await withoutFolders(databases.rocksdb);
        await publishFileList(from, versioned, ['full/parachains/db/CURRENT', 'keystore/6175']);
        await writeFile(join(list, 'latest_version.meta.txt'), `${VERSION}\n`);
      });

      it('with a version', async () => {
        for (const url of [`${nginx.url}/polkadot-rocksdb-prune`, `${nginx.url}/polkadot-rocksdb-prune/`]) {
          const { archive, restored } = await restores('rocksdb', url, '--chain', 'dev');
          assert.equal(archive.kind, 'list');
          assert.equal(archive.version, VERSION);
          assert.equal(restored?.sha256, null);
          assert.equal(restored?.fetchedBytes, restored?.bytes);
          assert.ok(restored?.skipped.names.includes('keystore/6175'));
          await rm(scene.target, { recursive: true });
        }
      });

      it('without a version', async () => {
        const { archive } = await restores(
          'rocksdb',
          `${nginx.url}/polkadot-rocksdb-prune/${VERSION}`,
          '--chain',
          'dev',
        );
        assert.equal(archive.version, null);
      });

      it('of a ParityDB, several files at a time', async () => {
        const flat = join(site, 'parity');
        await publishFileList(await withoutFolders(databases.paritydb), flat);
        await restores('paritydb', `${nginx.url}/parity/`, '--chain', 'dev', '--concurrency', '3');
      });

      it('that lacks a file, or names one that is not there', async () => {
        const text = await readFile(join(list, VERSION, 'files.txt'), 'utf8');
        const url = `${nginx.url}/polkadot-rocksdb-prune`;
        for (const [content, code, message] of [
          [text.replace('full/CURRENT\n', ''), 4, /DATABASE_INCOMPLETE/],
          [text.replace(/full\/MANIFEST-\d+\n/, ''), 4, /DATABASE_INCOMPLETE/],
          [`${text}full/999999.sst\n`, 7, /999999\.sst/],
          [`${text}full/CURRENT\n`, 4, /PATH_UNSAFE/],
          [`${text}../../etc/passwd\n`, 4, /PATH_UNSAFE/],
          [`${text}/etc/passwd\n`, 4, /PATH_UNSAFE/],
          ['\n', 4, /ARCHIVE_UNFIT/],
        ] as const) {
          await writeFile(join(list, VERSION, 'files.txt'), content);
          const outcome = await presync(args(url, '--insecure-no-verify', '--chain', 'dev'));
          assert.equal(outcome.code, code, outcome.stderr);
          assert.match(outcome.stdout, message);
          const names = await readdir(scene.target, { recursive: true }).catch(() => []);
          assert.ok(!names.some((name) => /(^|\/)(CURRENT|metadata)$/.test(name)), names.join(' '));
          await rm(scene.target, { recursive: true, force: true });
        }
        await writeFile(join(list, VERSION, 'files.txt'), text);
      });

      it('takes no SHA-256, and a chain that it does not name must be given', async () => {
        const url = `${nginx.url}/polkadot-rocksdb-prune`;
        const sum = await presync(args(url, '--archive-sha256', '0'.repeat(64), '--chain', 'dev'));
        assert.equal(sum.code, 2);
        assert.match(sum.stdout, /USAGE/);
        const chain = await presync(args(url, '--insecure-no-verify'));
        assert.equal(chain.code, 2);
        assert.match(chain.stdout, /does not name its chain/);
        assert.deepEqual(await readdir(scene.target).catch(() => []), []);
      });

      it('whose version names no folder', async () => {
        const meta = join(list, 'latest_version.meta.txt');
        for (const [content, code] of [
          ['../../etc\n', 4],
          ['<html>no</html>', 4],
          ['20990101-000000', 7],
        ] as const) {
          await rename(meta, `${meta}.kept`);
          await writeFile(meta, content);
          const outcome = await presync(
            args(`${nginx.url}/polkadot-rocksdb-prune/`, '--insecure-no-verify', '--chain', 'dev'),
          );
          assert.equal(outcome.code, code, outcome.stderr);
          await rename(`${meta}.kept`, meta);
        }
      });
    });
  },
);

/** Apparent bytes of a folder's files, and those that they take on disk. */
async function sizes(dir: string): Promise<[apparent: number, allocated: number]> {
  let [apparent, allocated] = [0, 0];
  for (const name of await readdir(dir)) {
    const { size, blocks } = await stat(join(dir, name));
    apparent += size;
    allocated += blocks * 512;
  }
  return [apparent, allocated];
}
