/** Archives that must not become a database, and calls that make no sense. Each is refused with nothing left behind. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFile, mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { restoreArchive } from '@presync/bootstrap/restore-archive';
import { PresyncError } from '@presync/runtime/errors';
import { createSilentLogger } from '@presync/runtime/log';
import { createDownloads } from '@presync/store/download';
import { type Entry, type Packing, packEntries, packFolder } from '../support/archives.ts';
import { assertRefused, createScene, type Scene } from '../support/bad-input.ts';
import { seededRandom } from '../support/corruption.ts';
import { hasProgram, needs } from '../support/needs.ts';
import { presyncOk } from '../support/presync.ts';
import { unpackFixture } from '../support/real-node.ts';
import { assertSameDatabase, listTree } from '../support/tree.ts';

const PART = 'chains/dev/db/full';

/** A database in form. */
const SMALL: readonly Entry[] = [
  { name: `${PART}/000001.sst`, content: Buffer.alloc(9000, 'table') },
  { name: `${PART}/MANIFEST-000004`, content: Buffer.from('manifest') },
  { name: `${PART}/db_version`, content: Buffer.from('5') },
  { name: `${PART}/CURRENT`, content: Buffer.from('MANIFEST-000004\n') },
];

const without = (name: string): Entry[] => SMALL.filter((entry) => !entry.name.endsWith(name));
const moved = (from: string, to: string): Entry[] =>
  SMALL.map((entry) => ({ ...entry, name: entry.name.replace(from, to) }));

describe(
  'an archive',
  needs('tar, zstd, lz4 and gzip', ['tar', 'zstd', 'lz4', 'gzip'].every(hasProgram)),
  () => {
    const cleanups: (() => Promise<void>)[] = [];
    let scene: Scene;
    let archive = '';

    before(async () => {
      scene = await createScene({ after: (fn) => void cleanups.push(fn) });
      archive = join(scene.dir, 'archive');
      await unpackFixture('rocksdb', scene.source);
      await writeFile(join(scene.dir, 'outside'), 'as it was');
    });
    after(async () => {
      for (const cleanup of cleanups) await cleanup();
    });
    beforeEach(() => rm(scene.target, { recursive: true, force: true }));

    const args = (...more: string[]): string[] => [
      ...['restore', '--base-path', scene.target, '--archive', archive, '--state-dir', scene.stateDir],
      ...more,
    ];

    async function refused(
      code: string,
      exit: number,
      names: (string | RegExp)[],
      run = args('--insecure-no-verify'),
    ): Promise<void> {
      // Nothing at all may change anywhere, the target's folder itself included.
      await assertRefused({ args: run, code, exit, names, unchanged: [scene.dir], ignore: ['source'] });
    }

    it('is restored when it is good, to the byte', async () => {
      await packEntries(SMALL, archive);
      await presyncOk(args('--insecure-no-verify'));
      for (const { name, content } of SMALL)
        assert.deepEqual(await readFile(join(scene.target, name)), content);
    });

    for (const [what, entries, code, names] of [
      ['with no database', [{ name: 'README', content: Buffer.from('hello') }], 'ARCHIVE_UNFIT', ['README']],
      ['with a folder only', [{ name: 'chains/', type: 'directory' }], 'ARCHIVE_UNFIT', ['no file at all']],
      [
        'with keys only',
        [{ name: 'chains/dev/keystore/61', content: Buffer.from('key') }],
        'ARCHIVE_UNFIT',
        ['keystore'],
      ],
      [
        'with two chains',
        [...SMALL, ...moved('chains/dev', 'chains/relay')],
        'ARCHIVE_UNFIT',
        ['chain dev', 'chain relay'],
      ],
      [
        'with two backends',
        [...SMALL, { name: 'chains/dev/paritydb/full/metadata', content: Buffer.from('x') }],
        'ARCHIVE_UNFIT',
        ['rocksdb', 'paritydb'],
      ],
      ['with a name twice', [...SMALL, ...SMALL.slice(0, 1)], 'PATH_UNSAFE', ['000001.sst']],
      ['without CURRENT', without('CURRENT'), 'DATABASE_INCOMPLETE', ['CURRENT']],
      ['without its MANIFEST', without('MANIFEST-000004'), 'DATABASE_INCOMPLETE', ['MANIFEST-000004']],
      ['without db_version', without('db_version'), 'DATABASE_INCOMPLETE', ['db_version']],
      [
        'with a link',
        [...SMALL, { name: `${PART}/000002.sst`, type: 'symlink', linkname: '../../../../../outside' }],
        'ARCHIVE_UNFIT',
        ['000002.sst', 'link'],
      ],
      [
        'with a link elsewhere',
        [{ name: 'x', type: 'symlink', linkname: '/' }, ...SMALL],
        'ARCHIVE_UNFIT',
        ['link'],
      ],
      [
        'with a hard link',
        [...SMALL, { name: `${PART}/000002.sst`, type: 'link', linkname: `${PART}/000001.sst` }],
        'ARCHIVE_UNFIT',
        ['link'],
      ],
      [
        'with a device',
        [...SMALL, { name: `${PART}/000002.sst`, type: 'block-device', devmajor: 8, devminor: 0 }],
        'ARCHIVE_UNFIT',
        ['block device'],
      ],
      ['with a pipe', [...SMALL, { name: `${PART}/000002.log`, type: 'fifo' }], 'ARCHIVE_UNFIT', ['fifo']],
      [
        'with ..',
        [...SMALL, { name: `${PART}/../../../../../outside`, content: Buffer.from('bad') }],
        'PATH_UNSAFE',
        ['..'],
      ],
      [
        'with .. that comes back',
        [...SMALL, { name: 'chains/../chains/dev/db/full/000002.sst', content: Buffer.from('bad') }],
        'PATH_UNSAFE',
        ['..'],
      ],
      [
        'with an absolute path',
        [{ name: '/tmp/CURRENT', content: Buffer.from('bad') }, ...SMALL],
        'PATH_UNSAFE',
        ['/tmp'],
      ],
      ['of a chain that cannot be', moved('chains/dev', 'chains/-rf'), 'PATH_UNSAFE', ['-rf']],
    ] as const) {
      it(what, async () => {
        await packEntries(entries, archive);
        await refused(code, 4, [...names]);
      });
    }

    it('of another chain, another backend, or of a chain that nobody names', async () => {
      await packEntries(SMALL, archive);
      const run = args('--insecure-no-verify');
      await refused('MANIFEST_FOREIGN', 4, ['chain dev', 'chain ksmcc3'], [...run, '--chain', 'ksmcc3']);
      await refused('TARGET_BACKEND', 6, ['rocksdb', 'paritydb'], [...run, '--backend', 'paritydb']);
      await packEntries(moved('chains/dev/', ''), archive);
      await refused('CONFIG_INVALID', 2, ['does not name its chain'], run);
    });

    for (const packing of [
      'tar',
      'zst',
      'zst-several',
      'lz4',
      'gz',
      'gz-several',
    ] as const satisfies Packing[]) {
      it(`${packing}: cut short, damaged, or with something behind its end`, async () => {
        await packFolder(scene.source, archive, { members: ['chains'], packing });
        const whole = await readFile(archive);
        const random = seededRandom(packing.length);
        for (const cut of [whole.length - 1, whole.length - 600, Math.floor(random() * whole.length), 700]) {
          await truncate(archive, cut);
          await refused('FORMAT_INVALID', 4, [archive]);
          await writeFile(archive, whole);
        }
        for (const tail of ['garbage', '\0\0\0garbage', whole.subarray(0, 2000)]) {
          await appendFile(archive, tail);
          await refused('FORMAT_INVALID', 4, [archive]);
          await writeFile(archive, whole);
        }
        if (packing === 'tar') return;
        // The checksum of the content sees every bit; LZ4's and zstd's, by default, at the end of a frame.
        for (let round = 0; round < 3; round++) {
          const damaged = Buffer.from(whole);
          const at = 100 + Math.floor(random() * (whole.length - 200));
          damaged[at] = (damaged[at] ?? 0) ^ 0x04;
          await writeFile(archive, damaged);
          await refused('FORMAT_INVALID', 4, [archive]);
        }
        await writeFile(archive, whole);
        const target = join(scene.target, PART);
        await presyncOk(args('--insecure-no-verify'));
        await assertSameDatabase(join(scene.source, PART), target);
      });
    }

    it('that says it is larger than the disk', async () => {
      const [table, ...rest] = SMALL;
      assert.ok(table !== undefined);
      // One header with a size of its own choice, as tar-stream packs no such.
      await packEntries([{ ...table, pax: { size: String(2 ** 52) } } as Entry, ...rest], archive);
      await refused('NO_SPACE', 6, ['room for the database', String(2 ** 52)]);
    });

    it('that is none', async () => {
      for (const [content, name] of [
        ['<!doctype html>', 'a web page'],
        ['', 'nothing at all'],
        ['\xfd7zXZ\0', 'xz'],
        ['PK\x03\x04', 'zip'],
      ] as const) {
        await writeFile(archive, content, 'latin1');
        await refused('FORMAT_INVALID', 4, [name]);
      }
    });

    it('that nothing proves must be accepted as such; a wrong digest never is', async () => {
      await packEntries(SMALL, archive);
      await refused('CONFIG_INVALID', 2, ['nothing proves'], args());
      await refused('CONFIG_INVALID', 2, ['nothing proves'], args('--existing', 'keep'));
      const digest = createHash('sha256')
        .update(await readFile(archive))
        .digest('hex');
      const wrong = `${digest.slice(0, 63)}${digest.endsWith('0') ? '1' : '0'}`;
      await refused('ARCHIVE_MISMATCH', 4, [digest, wrong], args('--archive-sha256', wrong));
      await refused('ARCHIVE_MISMATCH', 4, [digest], args('--archive-sha256', wrong, '--insecure-no-verify'));
    });

    it('and what makes no sense with it', async () => {
      await packEntries(SMALL, archive);
      const run = args('--insecure-no-verify');
      await refused('CONFIG_INVALID', 2, ['--store', '--archive'], [...run, '--store', scene.store]);
      await refused('USAGE', 2, ['reused'], [...run, '--existing', 'reuse', '--yes']);
      await refused('USAGE', 2, ['--existing replace'], [...run, '--existing', 'replace']);
      for (const [option, value] of [
        ['--channel', 'dev/rocksdb'],
        ['--snapshot', '3'],
        ['--genesis', `0x${'0'.repeat(64)}`],
        ['--source', 'https://cdn.invalid/x'],
        ['--max-age', '3d'],
      ] as const)
        await refused('USAGE', 2, [option], [...run, option, value]);
      await refused('CONFIG_INVALID', 2, ['--archive-sha256'], args('--archive-sha256', 'abc'));
      await refused('USAGE', 2, ['--archive-sha256'], scene.restoreArgs('--archive-sha256', '0'.repeat(64)));
      const neither = ['restore', '--base-path', scene.target];
      await refused('CONFIG_INVALID', 2, ['--store or --archive'], neither);
      for (const [place, name] of [
        ['s3://bucket/archive.tar', 's3:'],
        ['https://me:hush@127.0.0.1/archive.tar', 'user name or password'],
        ['http://', 'is none'],
        [scene.dir, 'is a folder'],
        [join(scene.dir, 'absent.tar'), 'absent.tar'],
      ] as const)
        await refused('CONFIG_INVALID', 2, [name], [...neither, '--archive', place, '--insecure-no-verify']);
    });

    it('for a target that must not be touched', async () => {
      await packEntries(SMALL, archive);
      const run = args('--insecure-no-verify');
      const full = join(scene.target, PART);
      await mkdir(full, { recursive: true });
      await writeFile(join(full, 'CURRENT'), 'MANIFEST-000001\n');
      await refused('TARGET_NOT_EMPTY', 6, [full], run);
      await rm(scene.target, { recursive: true });
      const sibling = join(scene.target, 'chains/dev/paritydb/full');
      await mkdir(sibling, { recursive: true });
      await writeFile(join(sibling, 'metadata'), 'x');
      await refused('TARGET_BACKEND', 6, [sibling], run);
      await refused('TARGET_BACKEND', 6, [sibling], [...run, '--dry-run']);
      await rm(scene.target, { recursive: true });
      await mkdir(join(scene.target, 'chains/dev/db'), { recursive: true });
      await writeFile(join(scene.target, 'chains/dev/db/db_version'), '5');
      await refused('TARGET_NOT_EMPTY', 6, ['db_version'], run);
    });

    it('that is damaged at random: a PresyncError or the right database, and nothing outside of its place', async () => {
      const random = seededRandom(20_261_126);
      const good = join(scene.dir, 'good');
      await packEntries(
        [
          ...SMALL,
          { name: 'chains/dev/keystore/61', content: Buffer.from('key') },
          { name: 'chains/dev/', type: 'directory' },
        ],
        good,
      );
      const plain = await readFile(good);
      await rm(good);
      const base = join(scene.dir, 'fuzz');
      const seen = new Map<string, number>();
      for (let round = 0; round < 150; round++) {
        await writeFile(archive, damaged(plain, random));
        const before = await listTree(scene.dir, { ignore: ['fuzz', 'source'] });
        const downloads = createDownloads();
        try {
          await restoreArchive({
            archive,
            downloads,
            basePath: base,
            chain: random() < 0.5 ? 'dev' : undefined,
            existing: 'refuse',
            progress: { start() {}, advance() {}, note() {}, finish() {} },
            log: createSilentLogger(),
            signal: AbortSignal.timeout(60_000),
          });
          seen.set('done', (seen.get('done') ?? 0) + 1);
          assert.deepEqual(await readFile(join(base, PART, 'CURRENT'), 'latin1'), 'MANIFEST-000004\n');
        } catch (error) {
          assert.ok(error instanceof PresyncError, `round ${round}: ${String(error)}`);
          assert.ok(
            error.code !== 'INTERNAL' && error.code !== 'IO_FAILED',
            `round ${round}: ${error.message}`,
          );
          seen.set(error.code, (seen.get(error.code) ?? 0) + 1);
          assert.deepEqual(await listTree(base), [], `round ${round}`);
        }
        assert.deepEqual(await listTree(scene.dir, { ignore: ['fuzz', 'source'] }), before, `round ${round}`);
        await rm(base, { recursive: true, force: true });
      }
      for (const code of ['done', 'FORMAT_INVALID', 'ARCHIVE_UNFIT', 'PATH_UNSAFE', 'DATABASE_INCOMPLETE'])
        assert.ok((seen.get(code) ?? 0) > 0, `${code} never came: ${JSON.stringify([...seen])}`);
    });
  },
);

/** Some changes to an archive; checksums of headers are made right again, so that the fields behind them are looked at. */
function damaged(plain: Buffer, random: () => number): Buffer {
  let bytes = Buffer.from(plain);
  const below = (n: number): number => Math.floor(random() * n);
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const block = below(bytes.length / 512) * 512;
    switch (below(6)) {
      case 0:
        bytes = bytes.subarray(0, below(bytes.length));
        break;
      case 1:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(block + 512)]);
        break;
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(0, 1024), bytes.subarray(block)]);
        break;
      case 3:
        bytes[below(bytes.length)] = below(256);
        break;
      default:
        change(bytes, random, below);
    }
    if (bytes.length < 1024) break;
  }
  return bytes;
}

const NAMES = [
  '../outside',
  '/tmp/outside',
  `${PART}/CURRENT`,
  `${PART}/000009.sst`,
  `${PART}/x`,
  'chains/a/db/full/CURRENT',
  './',
];

function change(bytes: Buffer, random: () => number, below: (n: number) => number): void {
  const headers: number[] = [];
  for (let at = 0; at + 512 <= bytes.length; at += 512)
    if (bytes.toString('latin1', at + 257, at + 262) === 'ustar') headers.push(at);
  const at = headers[below(headers.length)];
  if (at === undefined) return;
  const block = bytes.subarray(at, at + 512);
  if (random() < 0.5) block.write(`${NAMES[below(NAMES.length)]}\0`, 0);
  if (random() < 0.3) block.write('0123456gxLKS'.charAt(below(12)), 156);
  if (random() < 0.3) block.write(`${below(20_000).toString(8).padStart(11, '0')}\0`, 124);
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
}
