import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { constants, createZstdCompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { planChunks } from '@presync/format/chunks';
import { sha256 } from '@presync/format/digest';
import {
  createIndexWriter,
  type IndexedChunk,
  type IndexedFile,
  readIndex,
} from '@presync/format/index-file';
import { isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';
import { coded, filesArbitrary, KIB } from './support.ts';

const CHUNK = 64 * KIB;
const MIB = KIB * KIB;
const PARTS = ['chains/x/db/full', `chains/${'d'.repeat(100)}/full`];
const digest = 'ab'.repeat(32);
const signal = new AbortController().signal;

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'presync-index-'));
});
after(() => rm(folder, { recursive: true }));
let counter = 0;
const fresh = (): string => join(folder, String(counter++));

async function collect(chunks: AsyncIterable<IndexedChunk>): Promise<IndexedChunk[]> {
  const all: IndexedChunk[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

async function* bytesOf(...parts: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* parts;
}

/** Reads index text as if the manifest stated its very length. */
function readText(
  text: string | Uint8Array,
  options: Partial<Parameters<typeof readIndex>[1]> = {},
): Promise<IndexedChunk[]> {
  const plain = Buffer.from(text);
  return collect(
    readIndex(bytesOf(zstdCompressSync(plain)), {
      length: plain.length,
      chunkSize: CHUNK,
      parts: PARTS,
      what: 'the index',
      signal,
      ...options,
    }),
  );
}

const head = { presync: 'index', version: 1, chunkSize: CHUNK };
const file = (path: string, extra: object = {}): object => ({
  file: path,
  size: 100,
  class: 'immutable',
  mode: 0o644,
  mtime: 0,
  ...extra,
});
const chunk = (length: number, extra: object = {}): object => ({
  chunk: digest,
  length,
  size: 50,
  sha256: digest,
  ...extra,
});
const end = (files: number, chunks: number, bytes: number): object => ({ end: true, files, chunks, bytes });
const lines = (...values: object[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join('');
const A = 'chains/x/db/full/a';
const B = 'chains/x/db/full/b';
/** One file's index, sound but for what is added to its lines. */
const whole = (more: { head?: object; file?: object; chunk?: object }): string =>
  lines({ ...head, ...more.head }, file(A, more.file), chunk(1024, more.chunk), chunk(1024), end(1, 2, 100));
const sound = lines(head, file(A), file(B), chunk(2048), chunk(1024), end(2, 2, 200));

test('what was written is read back: files, chunks, layout, totals and digest', async () => {
  await fc.assert(
    fc.asyncProperty(filesArbitrary(200 * KIB), async (plain) => {
      const files: IndexedFile[] = plain.map((one, i) => ({ ...one, mode: 0o600, mtimeMs: i - 3 }));
      const path = fresh();
      const writer = createIndexWriter(path, { chunkSize: CHUNK });
      const layouts = [...planChunks(files, CHUNK)];
      for (const { begins, length } of layouts) {
        for (const one of begins) await writer.file(one);
        await writer.chunk({ sha256: digest, length, storedSize: 10, storedSha256: digest });
      }
      const { digest: written, totals } = await writer.finish();
      const bytes = await readFile(path);
      assert.deepEqual(written, {
        size: bytes.length,
        sha256: await sha256(bytes),
        length: zstdDecompressSync(bytes).length,
      });
      const read = await collect(
        readIndex(path, {
          length: written.length,
          chunkSize: CHUNK,
          parts: PARTS,
          totals,
          what: 'i',
          signal,
        }),
      );
      const stored = { sha256: digest, storedSize: 10, storedSha256: digest };
      assert.deepEqual(
        read,
        layouts.map((layout, ordinal) => ({ ...layout, ordinal, ...stored })),
      );
    }),
    { numRuns: 100 },
  );
});

test('the smallest sound indexes are read', async () => {
  assert.equal((await readText(whole({}))).length, 2);
  assert.equal((await readText(sound)).length, 2);
  assert.equal((await readText(lines(head, chunk(1024), end(0, 1, 0)))).length, 1);
});

const unsafe: Record<string, string> = {
  'a path that climbs': lines(head, file('chains/x/db/full/../../../../etc/passwd')),
  'an absolute path': lines(head, file('/etc/passwd')),
  'a NUL': lines(head, file('chains/x/db/full/a\u0000')),
  'a backslash': lines(head, file('chains/x/db/full/a\\b')),
  'a file outside the parts': lines(head, file('chains/x/keystore/secret')),
  'a file in a folder below a part': lines(head, file('chains/x/db/full/sub/a')),
  'a file beside the parts': lines(head, file('chains/x/db/full.sst')),
  'case twins': lines(head, file('chains/x/db/full/A'), file(A)),
  'the same file twice': lines(head, file(A), file(A)),
  'the same file in two classes': lines(head, file(A), chunk(1024), file(A, { class: 'mutable' })),
};
for (const [what, text] of Object.entries(unsafe)) {
  test(`${what} is PATH_UNSAFE`, () => assert.rejects(readText(text), coded('PATH_UNSAFE')));
}

test('a file that stands where another part has its folder is PATH_UNSAFE', async () => {
  const parts = ['chains/x', 'chains/x/db', 'chains/x/db/full'];
  for (const path of ['chains/x/db', 'chains/x/DB', 'chains/x/db/full']) {
    await assert.rejects(readText(lines(head, file(path)), { parts }), coded('PATH_UNSAFE'), path);
  }
  assert.equal((await readText(sound, { parts })).length, 2);
});

const corrupt: Record<string, string | Uint8Array> = {
  'an empty index': '',
  'no head': lines(file(A), chunk(1024)),
  'another kind': whole({ head: { presync: 'manifest' } }),
  'another chunk size': whole({ head: { chunkSize: CHUNK * 2 } }),
  'an unknown field in the head': whole({ head: { more: 1 } }),
  'an unknown field in a file': whole({ file: { link: '/etc/passwd' } }),
  'an unknown field in a chunk': whole({ chunk: { offset: 0 } }),
  'a class that does not exist': whole({ file: { class: 'link' } }),
  'set-user-id beyond permission bits': whole({ file: { mode: 0o10000 } }),
  'a fractional size': lines(head, file(A, { size: 1.5 })),
  'a size beyond exact integers': lines(head, file(A, { size: 2 ** 60 })),
  'files out of order': lines(head, file(B), file(A), chunk(2048), chunk(1024), end(2, 2, 200)),
  'classes out of order': lines(
    head,
    file(A, { class: 'seal' }),
    chunk(1024),
    file(B),
    chunk(1024),
    chunk(1024),
    end(2, 3, 200),
  ),
  'an empty chunk': lines(head, file(A), chunk(0)),
  'a chunk that lies about its length': lines(head, file(A), chunk(1536)),
  'a chunk stored in more bytes than a frame can need': whole({ chunk: { size: 1024 + 64 * KIB + 1 } }),
  'a digest in capitals': whole({ chunk: { chunk: digest.toUpperCase() } }),
  'a digest that is a path': whole({ chunk: { chunk: '../../x' } }),
  'no end': lines(head, file(A), file(B), chunk(2048), chunk(1024)),
  'an end before the archive ends': lines(head, file(A), chunk(1024), end(1, 1, 100)),
  'a total of files that lies': sound.replace('"files":2', '"files":3'),
  'a total of chunks that lies': sound.replace('"chunks":2', '"chunks":1'),
  'a total of bytes that lies': sound.replace('"bytes":200', '"bytes":201'),
  'a line after the end': `${sound}${lines(file('chains/x/db/full/c'))}`,
  'an empty line': sound.replace('\n', '\n\n'),
  'a last line without its newline': sound.slice(0, -1),
  'half a character after the end': Buffer.concat([Buffer.from(sound), Buffer.from([0xe2, 0x82])]),
  'bytes that are not UTF-8': Buffer.concat([
    Buffer.from(sound.slice(0, 40)),
    Buffer.from([0xff]),
    Buffer.from(sound.slice(40)),
  ]),
  'a byte order mark': `\ufeff${sound}`,
  'a line that is too long': `${sound.slice(0, 1)}${' '.repeat(3000)}${sound.slice(1)}`,
  'a line that is no JSON': `${lines(head)}{"file":\n`,
  'a line that is no object': `${lines(head)}null\n`,
};
for (const [what, text] of Object.entries(corrupt)) {
  test(`${what} is INDEX_CORRUPT`, () => assert.rejects(readText(text), coded('INDEX_CORRUPT')));
}

test('lengths and totals other than the manifest states are INDEX_CORRUPT', async () => {
  for (const length of [sound.length - 1, sound.length + 1, 1, 2 ** 31]) {
    await assert.rejects(readText(sound, { length }), coded('INDEX_CORRUPT'), String(length));
  }
  for (const field of ['files', 'chunks', 'bytes']) {
    const totals = { files: 2, chunks: 2, bytes: 200, [field]: 7 };
    await assert.rejects(readText(sound, { totals }), coded('INDEX_CORRUPT'), field);
  }
});

test('arbitrary bytes, arbitrary JSON lines and mutations cause nothing but a PresyncError', async () => {
  const plain = Buffer.from(sound);
  const packed = zstdCompressSync(plain);
  const attempt = async (source: Uint8Array, length: number): Promise<void> => {
    try {
      await collect(
        readIndex(bytesOf(source), { length, chunkSize: CHUNK, parts: PARTS, what: 'i', signal }),
      );
    } catch (error) {
      coded('INDEX_CORRUPT', 'PATH_UNSAFE')(error);
    }
  };
  const jsonLines = fc
    .array(fc.json({ maxDepth: 2 }), { maxLength: 5 })
    .map((all) => `${JSON.stringify(head)}\n${all.join('\n')}\n`);
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 100 }), (bytes) => attempt(bytes, 100)));
  await fc.assert(
    fc.asyncProperty(jsonLines, (text) =>
      attempt(zstdCompressSync(Buffer.from(text)), Buffer.byteLength(text)),
    ),
  );
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.nat(), fc.nat(255), async (inside, pick, value) => {
      const bytes = Buffer.from(inside ? plain : packed);
      bytes[pick % bytes.length] = value;
      await attempt(inside ? zstdCompressSync(bytes) : bytes, plain.length);
    }),
    { numRuns: 400 },
  );
});

/** A zstd frame that unfolds to `size` bytes of `filling`, made without holding them. */
async function bomb(size: number, filling: string, windowLog = 20): Promise<Buffer> {
  const compressor = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: windowLog } });
  const piece = Buffer.alloc(MIB, filling);
  const parts: Buffer[] = [];
  const done = (async () => {
    for await (const bytes of compressor) parts.push(bytes as Buffer);
  })();
  compressor.write(`${JSON.stringify(head)}\n`);
  for (let i = 0; i < size / MIB; i++) {
    if (!compressor.write(piece)) await new Promise((resolve) => compressor.once('drain', resolve));
  }
  compressor.end();
  await done;
  return Buffer.concat(parts);
}

test('an index that unfolds to a gigabyte stops at the stated length, and a 100 MB line at once', async () => {
  const cases: [Buffer, number][] = [
    [await bomb(1024 * MIB, `${JSON.stringify(file(A))}\n`), 5000],
    [await bomb(100 * MIB, 'x'), 1000 * MIB],
  ];
  for (const [packed, length] of cases) {
    const start = process.memoryUsage().rss;
    const options = { length, chunkSize: CHUNK, parts: PARTS, what: 'i', signal };
    await assert.rejects(collect(readIndex(bytesOf(packed), options)), coded('INDEX_CORRUPT', 'PATH_UNSAFE'));
    assert.ok(process.memoryUsage().rss - start < 100 * MIB);
  }
});

test('sound lines beyond the stated length are never handed out', async () => {
  const pairs = Array.from({ length: 20_000 }, (_, i) => [
    file(`chains/x/db/full/${String(i).padStart(6, '0')}`),
    chunk(1024),
  ]).flat();
  const plain = Buffer.from(lines(head, ...pairs, chunk(1024), end(20_000, 20_001, 2_000_000)));
  let seen = 0;
  const options = { length: 5000, chunkSize: CHUNK, parts: PARTS, what: 'i', signal };
  await assert.rejects(async () => {
    for await (const _ of readIndex(bytesOf(zstdCompressSync(plain)), options)) seen += 1;
  }, coded('INDEX_CORRUPT'));
  assert.ok(seen <= 5000 / 185, `${seen} chunks`);
});

test('a window beyond 8 MiB is refused', async () => {
  const packed = await bomb(MIB, ' ', 27);
  await assert.rejects(
    collect(
      readIndex(bytesOf(packed), { length: 2 * MIB, chunkSize: CHUNK, parts: PARTS, what: 'i', signal }),
    ),
    (error) => coded('INDEX_CORRUPT')(error) && /memory/i.test(String(error)),
  );
});

const openIndexes = (): number =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(folder);
    } catch {
      return false;
    }
  }).length;

/** Waits for handles to close: that happens in the thread pool. */
async function assertNoHandles(): Promise<void> {
  if (process.platform !== 'linux') return;
  for (let i = 0; openIndexes() > 0 && i < 500; i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(openIndexes(), 0);
}

test('an abort stops a reader that waits for its source, and no handle stays open', async () => {
  const controller = new AbortController();
  const packed = zstdCompressSync(Buffer.from(sound));
  async function* stalled(): AsyncGenerator<Uint8Array> {
    yield packed.subarray(0, 20);
    setTimeout(() => controller.abort(), 20);
    await new Promise(() => {});
  }
  const reading = collect(
    readIndex(stalled(), {
      length: sound.length,
      chunkSize: CHUNK,
      parts: PARTS,
      what: 'i',
      signal: controller.signal,
    }),
  );
  await assert.rejects(reading, coded('ABORTED'));
});

test('an abort between two chunks, a consumer that leaves, and an error close the file', async () => {
  const path = fresh();
  await writeFile(path, zstdCompressSync(Buffer.from(sound)));
  const base = { length: sound.length, chunkSize: CHUNK, parts: PARTS, what: 'i' };
  const controller = new AbortController();
  const aborted = readIndex(path, { ...base, signal: controller.signal });
  await aborted.next();
  controller.abort();
  await assert.rejects(aborted.next(), coded('ABORTED'));
  for await (const _ of readIndex(path, { ...base, signal })) break;
  await assert.rejects(collect(readIndex(path, { ...base, signal, length: 5 })), coded('INDEX_CORRUPT'));
  await assertNoHandles();
});

test('a file that cannot be read is IO_FAILED, never a corrupt index; a failed source keeps its own error', async () => {
  const base = { length: 5, chunkSize: CHUNK, parts: PARTS, what: 'i', signal };
  await assert.rejects(collect(readIndex(join(folder, 'absent'), base)), coded('IO_FAILED'));
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield Buffer.alloc(0);
    const { PresyncError } = await import('@presync/runtime/errors');
    throw new PresyncError('STORE_FORBIDDEN', 'no');
  }
  await assert.rejects(collect(readIndex(failing(), base)), coded('STORE_FORBIDDEN'));
});

test('the writer never replaces a file, says so with a PresyncError, and leaves nothing open when it gives up', async () => {
  const path = fresh();
  await writeFile(path, 'precious');
  const writer = createIndexWriter(path, { chunkSize: CHUNK });
  await assert.rejects(
    writer.finish(),
    (error) => isPresyncError(error, 'IO_FAILED') && error.message.includes(path),
  );
  assert.equal(await readFile(path, 'utf8'), 'precious');
  const other = createIndexWriter(fresh(), { chunkSize: CHUNK });
  await other.chunk({ sha256: digest, length: 1024, storedSize: 10, storedSha256: digest });
  await other.abort();
  await assertNoHandles();
  assert.ok((await stat(path)).isFile());
});
