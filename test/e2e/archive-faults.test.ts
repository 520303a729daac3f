/** Restoring from archives while the network breaks, the server misbehaves, and the process is killed. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type RestoreArchiveOptions, restoreArchive } from '@presync/bootstrap/restore-archive';
import { isPresyncError } from '@presync/runtime/errors';
import { createSilentLogger } from '@presync/runtime/log';
import { createDownloads } from '@presync/store/download';
import { packFolder, publishFileList } from '../support/archives.ts';
import { assertRefused, createScene, type Scene } from '../support/bad-input.ts';
import { seededRandom } from '../support/corruption.ts';
import { type FaultyServer, startFaultyServer } from '../support/faulty-server.ts';
import { hasProgram, needs } from '../support/needs.ts';
import { presync, presyncOk, startPresync } from '../support/presync.ts';
import { unpackFixture } from '../support/real-node.ts';
import { assertSameDatabase } from '../support/tree.ts';

const PART = 'chains/dev/db/full';
const VERSION = 'v1';

describe(
  'an archive on a web server',
  needs('tar, zstd and lz4', ['tar', 'zstd', 'lz4'].every(hasProgram)),
  () => {
    const cleanups: (() => Promise<void>)[] = [];
    let scene: Scene;
    let server: FaultyServer;
    let full = '';

    before(async () => {
      scene = await createScene({ after: (fn) => void cleanups.push(fn) });
      await unpackFixture('rocksdb', scene.source);
      full = join(scene.source, PART);
      const site = join(scene.dir, 'site');
      await mkdir(site);
      await packFolder(scene.source, join(site, 'a.tar'), { members: ['chains'] });
      await packFolder(scene.source, join(site, 'a.tar.zst'), {
        members: ['chains'],
        packing: 'zst-several',
      });
      await packFolder(scene.source, join(site, 'a.tar.lz4'), { members: ['chains'], packing: 'lz4' });
      await publishFileList(full, join(site, 'list', VERSION));
      await writeFile(join(site, 'list/latest_version.meta.txt'), VERSION);
      server = await startFaultyServer(site);
    });
    after(async () => {
      await server.stop();
      for (const cleanup of cleanups) await cleanup();
    });
    beforeEach(async () => {
      await rm(scene.target, { recursive: true, force: true });
      server.faults = {};
      server.requests.length = 0;
    });

    const args = (name: string): string[] => [
      ...['restore', '--base-path', scene.target, '--archive', `${server.url}/${name}`, '--chain', 'dev'],
      ...['--insecure-no-verify', '--state-dir', scene.stateDir, '--json'],
    ];

    /** Nothing that a node takes for a database, wherever it lies. */
    async function assertNoDatabase(): Promise<void> {
      const names = await readdir(scene.target, { recursive: true }).catch((): string[] => []);
      assert.deepEqual(
        names.filter((name) => /(^|\/)(CURRENT|metadata)$/.test(name) || name.startsWith(PART)),
        [],
      );
    }

    async function assertComplete(): Promise<void> {
      await assertSameDatabase(full, join(scene.target, PART));
      assert.deepEqual(await readdir(join(scene.target, 'chains/dev/db')), ['full']);
    }

    for (const name of ['a.tar', 'a.tar.zst', 'a.tar.lz4', 'list']) {
      it(`${name}: connections that break at random points`, async () => {
        const random = seededRandom(name.length);
        server.faults = {
          cutAfter: (request) =>
            /\.txt$/.test(request.url ?? '') || random() < 0.1
              ? undefined
              : 1 + Math.floor(random() * 2_000_000),
        };
        await presyncOk(args(name));
        await assertComplete();
        assert.ok(server.requests.some((request) => /bytes=[1-9]/.test(request)));
      });
    }

    it('that knows no ranges: an error for one file, another attempt for each of a list', async () => {
      server.faults = { noRanges: true, cutAfter: () => 700_000 };
      await assertRefused({
        args: args('a.tar.zst'),
        code: 'STORE_FAILED',
        exit: 7,
        names: ['gives no ranges', /after \d+ bytes/],
        unchanged: [scene.target],
      });
      const broken = new Set<string>();
      server.faults = {
        noRanges: true,
        cutAfter: ({ url = '' }) => {
          if (!url.endsWith('.sst') || broken.has(url)) return undefined;
          broken.add(url);
          return 1000;
        },
      };
      await presyncOk(args('list'));
      await assertComplete();
      assert.ok(broken.size > 0);
    });

    it('that gives another file, or another part, for the rest', async () => {
      let answers = 0;
      const cutAfter = ({ url = '' }: { url?: string | undefined }): number | undefined =>
        url.endsWith('.txt') ? undefined : 100_000;
      for (const name of ['a.tar', 'list']) {
        for (const [faults, message] of [
          [{ etag: () => `"${answers++}"` }, /changed while it was read/],
          [
            { contentRange: (right: string) => right.replace(/\d+-/, '0-') },
            /where all from \d+ on was asked/,
          ],
          [
            { contentRange: (right: string) => right.replace(/\d+$/, (size) => `${Number(size) + 1}`) },
            /was asked/,
          ],
        ] as const) {
          server.faults = { cutAfter, ...faults };
          const { code, stdout } = await presync(args(name));
          assert.equal(code, 7, stdout);
          assert.match(stdout, message);
          await assertNoDatabase();
          if (name !== 'list') assert.deepEqual(await readdir(scene.target).catch(() => []), []);
          await rm(scene.target, { recursive: true, force: true });
        }
      }
    });

    it('whose list changes while the files are read', async () => {
      const list = join(scene.dir, 'site/list', VERSION, 'files.txt');
      const before = await readFile(list, 'utf8');
      server.faults = {
        cutAfter: ({ url = '' }) => {
          if (url.endsWith('.sst')) writeFileSync(list, `${before}full/999999.sst\n`);
          return undefined;
        },
      };
      try {
        await assertRefused({
          args: args('list'),
          code: 'STORE_FAILED',
          exit: 7,
          names: ['files.txt', 'changed while the files were read'],
          unchanged: [scene.target],
        });
      } finally {
        await writeFile(list, before);
      }
    });

    for (const name of ['a.tar.zst', 'list']) {
      it(`${name}: a restore that is killed leaves no database, and ends well`, async () => {
        const random = seededRandom(name.length + 1);
        server.faults = { delayMs: 6 };
        let killed = 0;
        let whole = (await presyncOk(args(name))).seconds;
        await rm(scene.target, { recursive: true });
        for (let round = 0; round < 10; round++) {
          const running = startPresync(args(name));
          await sleep(random() * whole * 1000);
          running.child.kill('SIGKILL');
          const { signal, seconds } = await running.done;
          if (signal !== 'SIGKILL') {
            whole = Math.min(whole, seconds);
            await assertComplete();
            await rm(scene.target, { recursive: true });
            continue;
          }
          killed += 1;
          const names = await readdir(scene.target, { recursive: true }).catch((): string[] => []);
          // Either nothing has the database's name, or all of it is there.
          if (names.includes(`${PART}/CURRENT`)) await assertSameDatabase(full, join(scene.target, PART));
          else assert.ok(!names.includes(PART), names.join(' '));
        }
        assert.ok(killed > 3, `${killed} of 10 were killed`);
        server.faults = {};
        await presyncOk([...args(name), '--existing', 'replace', '--yes']);
        await assertComplete();
      });
    }

    it('a restore that is stopped between seal and swap only has to be moved', async () => {
      for (const archive of [join(scene.dir, 'site/a.tar'), `${server.url}/a.tar`, `${server.url}/list`]) {
        const options = (signal: AbortSignal): RestoreArchiveOptions => ({
          archive,
          downloads: createDownloads(),
          basePath: scene.target,
          chain: 'dev',
          existing: 'refuse',
          progress: { start() {}, advance() {}, note() {}, finish() {} },
          log: createSilentLogger(),
          signal,
        });
        // Fires by itself as soon as the note says that all is there.
        const { signal } = new AbortController();
        const note = join(scene.target, 'chains/dev/db/.presync/restore.json');
        Object.defineProperty(signal, 'aborted', {
          get: () => existsSync(note) && readFileSync(note, 'utf8').includes('sealed'),
        });
        await assert.rejects(restoreArchive(options(signal)), (error) => isPresyncError(error, 'ABORTED'));
        assert.ok(!(await readdir(join(scene.target, 'chains/dev/db'))).includes('full'));
        server.requests.length = 0;
        const { restored } = await restoreArchive(options(AbortSignal.timeout(60_000)));
        assert.equal(restored?.wasSealed, true);
        assert.ok((restored?.fetchedBytes ?? 0) < 1_000_000, `${restored?.fetchedBytes} bytes came again`);
        assert.ok(!server.requests.some((request) => request.includes('/full/')), server.requests.join(' '));
        await assertComplete();
        await rm(scene.target, { recursive: true });
      }
    });

    it('a file list goes on where it was killed, and starts anew for another version', async () => {
      server.faults = { delayMs: 30 };
      const running = startPresync([...args('list'), '--concurrency', '2']);
      const stage = join(scene.target, 'chains/dev/db/.presync/restore-full');
      const complete = async (): Promise<string[]> =>
        (await readdir(stage).catch(() => [])).filter((name) => !name.endsWith('.presync-part'));
      while ((await complete()).length < 3) await sleep(20);
      running.child.kill('SIGKILL');
      await running.done;
      const kept = await complete();
      await assertNoDatabase();
      server.faults = {};
      server.requests.length = 0;
      const { json } = await presyncOk(args('list'));
      await assertComplete();
      const { restored } = json as { restored: { keptFiles: number } };
      assert.equal(restored.keptFiles, kept.length);
      const names = kept.map((name) => name.replace('.presync-unsealed', ''));
      for (const name of names)
        assert.ok(
          !server.requests.includes(`GET /list/${VERSION}/full/${name}`),
          `${name} was fetched again`,
        );

      // Files of another version are of no use, whatever their sizes.
      await rm(scene.target, { recursive: true });
      server.faults = { cutAfter: ({ url = '' }) => (url.endsWith('CURRENT') ? 0 : undefined) };
      const failing = startPresync(args('list'));
      while ((await complete()).length < 3) await sleep(20);
      failing.child.kill('SIGTERM');
      assert.equal((await failing.done).code, 143);
      assert.ok((await complete()).length >= 3, 'the files did not stay');
      await assertNoDatabase();
      server.faults = {};
      const site = join(scene.dir, 'site/list');
      await publishFileList(full, join(site, 'v2'));
      await writeFile(join(site, 'latest_version.meta.txt'), 'v2');
      const other = (await presyncOk(args('list'))).json as { restored: { keptFiles: number } };
      assert.equal(other.restored.keptFiles, 0);
      await assertComplete();
      await writeFile(join(site, 'latest_version.meta.txt'), VERSION);
    });

    it('a restore that is stopped by SIGTERM leaves nothing', async () => {
      server.faults = { delayMs: 30 };
      const running = startPresync(args('a.tar'));
      const stage = join(scene.target, 'chains/dev/db/.presync/restore-full');
      while ((await readdir(stage).catch(() => [])).length < 2) await sleep(20);
      running.child.kill('SIGTERM');
      assert.equal((await running.done).code, 143);
      assert.deepEqual(await readdir(scene.target).catch(() => []), []);
    });
  },
);
