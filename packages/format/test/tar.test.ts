import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ArchiveFile, compareFiles, planChunks } from '@presync/format/chunks';
import { createNativeCodec, createWasmCodec } from '@presync/format/codec';
import { sha256, zeroDigest } from '@presync/format/digest';
import { tarHeader } from '@presync/format/tar';
import { hasProgram, needs } from '../../../test/support/needs.ts';
import { contentOf, KIB, plaintextOf } from './support.ts';

const CHUNK = 64 * KIB;
const FOLDER = `chains/${'d'.repeat(110)}/full`;
const files: ArchiveFile[] = (
  [
    ['chains/x/db/full/000001.sst', CHUNK * 3 + 100, 'immutable'],
    ['chains/x/db/full/000002.sst', CHUNK * 2, 'immutable'],
    ['chains/x/db/full/sparse', CHUNK * 4, 'mutable'],
    ['chains/x/db/full/random', CHUNK + 1, 'mutable'],
    ['chains/x/db/full/empty', 0, 'mutable'],
    ['chains/x/db/full/one', 1, 'mutable'],
    ['chains/x/db/full/block', 512, 'mutable'],
    [`${FOLDER}/${'n'.repeat(120)}`, 700, 'mutable'],
    [`${FOLDER}/${'m'.repeat(120)}`, CHUNK * 2 + 7, 'mutable'],
    [`${FOLDER}/empty${'e'.repeat(110)}`, 0, 'mutable'],
    [`${FOLDER}/prefix`, 3, 'mutable'],
    ['chains/x/db/full/CURRENT', 16, 'seal'],
  ] as const
).map(([path, size, kind]) => ({ path, size, class: kind }));
files.sort(compareFiles);

/** Zeros, noise that does not compress, and text that does. */
function content(file: ArchiveFile, offset: number, length: number): Buffer {
  if (file.path.endsWith('sparse')) return Buffer.alloc(length);
  if (!file.path.endsWith('random') && !file.path.endsWith('.sst')) return contentOf(file, offset, length);
  const whole = Buffer.alloc(file.size);
  for (let i = 0; i < file.size; i += 32)
    createHash('sha256').update(`${file.path} ${i}`).digest().copy(whole, i);
  return whole.subarray(offset, offset + length);
}

const programs: [string, string, string][] = [
  ['GNU tar', 'tar', 'tar -xf - -C "$2"'],
  ['bsdtar', 'bsdtar', 'bsdtar -xf - -C "$2"'],
  ['busybox tar', 'busybox', 'busybox tar -xf - -C "$2"'],
];

for (const codec of [createNativeCodec(), await createWasmCodec()]) {
  for (const [name, program, command] of programs) {
    const found = hasProgram('zstd') && hasProgram(program);
    test(
      `chunks by ${codec.name}, concatenated, are a .tar.zst for ${name}`,
      needs(`zstd and ${name}`, found),
      async () => {
        const folder = mkdtempSync(join(tmpdir(), 'presync-tar-'));
        try {
          const frames: Uint8Array[] = [];
          let zeroChunks = 0;
          for (const layout of planChunks(files, CHUNK)) {
            const plain = await plaintextOf(layout, content);
            if ((await sha256(plain)) === zeroDigest(CHUNK)) zeroChunks += 1;
            frames.push(await codec.encode(plain, { level: 3 }));
          }
          assert.equal(zeroChunks, 3);
          writeFileSync(join(folder, 'all.tar.zst'), Buffer.concat(frames));
          mkdirSync(join(folder, 'out'));
          const script = `set -e; zstd -dc "$1" | ${command}`;
          const run = spawnSync(
            'sh',
            ['-c', script, 'sh', join(folder, 'all.tar.zst'), join(folder, 'out')],
            { encoding: 'utf8' },
          );
          assert.equal(run.status, 0, run.stderr);
          assert.equal(run.stderr, '');
          for (const file of files) {
            const restored = readFileSync(join(folder, 'out', file.path));
            assert.equal(Buffer.compare(restored, content(file, 0, file.size)), 0, file.path);
          }
          const restored = readdirSync(join(folder, 'out'), { recursive: true, withFileTypes: true }).filter(
            (entry) => entry.isFile(),
          );
          assert.equal(restored.length, files.length);
        } finally {
          rmSync(folder, { recursive: true });
        }
      },
    );
  }
}

for (const [name, program, command] of programs) {
  const list = command.replace('-xf - -C "$2"', '-tvf -');
  test(
    `${name} reads a size beyond 8 GiB, also behind a PAX record`,
    needs(name, hasProgram(program)),
    async () => {
      for (const path of ['chains/x/db/full/table', `${FOLDER}/${'n'.repeat(120)}`]) {
        const size = 300 * 2 ** 30 + 5;
        // The listing fails after the first entry, since its content is not there; what matters is what was read of its header.
        const { stdout } = spawnSync('sh', ['-c', list], {
          input: await tarHeader(path, size),
          encoding: 'utf8',
        });
        assert.ok(stdout.includes(` ${size} `) && stdout.includes(path), stdout);
      }
    },
  );
}

const golden: [string, number, number, string][] = [
  ['a/b', 5, 512, '4c01f66301b4c69157942892e504fe3e02a60a9b05f569308c86363f6f1d4aed'],
  ['a/b', 9 * 2 ** 30, 512, '70c739e10f8d07de045f438c036f804683ab5df84b4f3b015de930ffe10379ea'],
  [
    `${'x'.repeat(128)}/${'y'.repeat(120)}`,
    3,
    1536,
    'c24c44226d83917877420d408eb05632b7e12c93ddf5c1c0e7c304a2c3f83101',
  ],
];

test('the bytes of headers never change: they are part of the identity of every chunk', async () => {
  for (const [path, size, length, digest] of golden) {
    const header = await tarHeader(path, size);
    assert.equal(header.length, length);
    assert.equal(createHash('sha256').update(header).digest('hex'), digest, path);
  }
  const plain = await tarHeader('a/b', 5);
  assert.equal(plain.toString('latin1', 0, 4), 'a/b\0');
  assert.equal(
    plain.toString('latin1', 100, 157),
    '000644 \x00000000 \x00000000 \x0000000000005 00000000000 007544 \x000',
  );
  assert.equal(plain.toString('latin1', 257, 265), 'ustar\x0000');
  assert.equal((await tarHeader('a/b', 9 * 2 ** 30)).toString('hex', 124, 136), '800000000000000240000000');
});

test('the boundaries of chunks never change: they decide what is stored once', () => {
  const small: ArchiveFile[] = Array.from({ length: 40 }, (_, i) => ({
    path: `d/${String(i).padStart(3, '0')}`,
    size: i * 100,
    class: i < 30 ? 'immutable' : 'mutable',
  }));
  const large: ArchiveFile = { path: 'd/040', size: CHUNK + 1, class: 'mutable' };
  const edge: ArchiveFile = { path: 'd/041', size: CHUNK / 4, class: 'seal' };
  const lengths = [...planChunks([...small, large, edge], CHUNK)].map(
    (layout) => `${layout.begins.length}:${layout.length}`,
  );
  assert.equal(
    lengths.join(' '),
    '5:4608 13:24064 5:13824 7:23552 6:24064 4:18432 1:66048 0:512 1:16896 0:1024',
  );
});
