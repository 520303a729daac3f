import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type ArchiveFile,
  type ChunkLayout,
  compareFiles,
  createChunkReader,
  planChunks,
} from '@presync/format/chunks';
import { MAX_CHUNK_OVERHEAD } from '@presync/format/limits';
import { tarHeader, tarHeaderLength } from '@presync/format/tar';
import fc from 'fast-check';
import { pack } from 'tar-stream';
import { coded, contentOf, filesArbitrary, KIB, pathArbitrary, plaintextOf } from './support.ts';

const chunkSizes = fc.constantFrom(4 * KIB, 16 * KIB, 64 * KIB);

function readBack(layouts: ChunkLayout[], chunkSize: number): ChunkLayout[] {
  const reader = createChunkReader<ArchiveFile>(chunkSize);
  const read = layouts.map((layout) => {
    for (const file of layout.begins) reader.file(file);
    return reader.chunk(layout.length);
  });
  reader.end();
  return read;
}

test('the reader derives from order and lengths alone exactly what the writer planned', () => {
  fc.assert(
    fc.property(filesArbitrary(200 * KIB), chunkSizes, (files, chunkSize) => {
      const planned = [...planChunks(files, chunkSize)];
      assert.deepEqual(readBack(planned, chunkSize), planned);
    }),
    { numRuns: 300 },
  );
});

test('no chunk is empty or longer than the chunk size and its overhead', () => {
  fc.assert(
    fc.property(filesArbitrary(200 * KIB), chunkSizes, (files, chunkSize) => {
      for (const { length } of planChunks(files, chunkSize)) {
        assert.ok(length > 0 && length <= chunkSize + MAX_CHUNK_OVERHEAD, String(length));
      }
    }),
  );
});

test('every byte of every file is in exactly one segment, and segments never overlap', () => {
  fc.assert(
    fc.property(filesArbitrary(200 * KIB), chunkSizes, (files, chunkSize) => {
      const reached = new Map(files.map((file) => [file.path, 0]));
      for (const layout of planChunks(files, chunkSize)) {
        let at = 0;
        for (const segment of layout.segments) {
          assert.ok(segment.at >= at && segment.at + segment.length <= layout.length);
          at = segment.at + segment.length;
          if (segment.kind !== 'data') continue;
          assert.equal(segment.offset, reached.get(segment.file.path));
          reached.set(segment.file.path, segment.offset + segment.length);
        }
      }
      for (const file of files) assert.equal(reached.get(file.path), file.size);
    }),
  );
});

test('concatenated plaintexts equal the tar stream that tar-stream packs', async () => {
  await fc.assert(
    fc.asyncProperty(filesArbitrary(40 * KIB, 12), chunkSizes, async (files, chunkSize) => {
      const plain: Buffer[] = [];
      for (const layout of planChunks(files, chunkSize)) plain.push(await plaintextOf(layout));
      const archive = pack();
      for (const file of files) {
        archive.entry(
          { name: file.path, mode: 0o644, mtime: new Date(0), uid: 0, gid: 0, type: 'file' },
          contentOf(file, 0, file.size),
        );
      }
      archive.finalize();
      const expected: Buffer[] = [];
      for await (const bytes of archive) expected.push(bytes as Buffer);
      assert.equal(Buffer.compare(Buffer.concat(plain), Buffer.concat(expected)), 0);
    }),
    { numRuns: 60 },
  );
});

test('a header is as long as foretold, whatever the path and the size', async () => {
  await fc.assert(
    fc.asyncProperty(pathArbitrary, fc.maxSafeNat(), async (path, size) => {
      assert.equal((await tarHeader(path, size)).length, tarHeaderLength(path));
    }),
  );
});

const signature = ({ length, segments }: ChunkLayout): string =>
  JSON.stringify([length, segments.map((s) => [s.kind, s.file.path, s.at, s.length])]);

/** An independent FNV-1a: after which small files a bundle ends. */
function breaksAfter(path: string): boolean {
  let hash = 0x811c9dc5n;
  for (const byte of Buffer.from(path)) hash = ((hash ^ BigInt(byte)) * 0x01000193n) & 0xffffffffn;
  return hash % 8n === 0n;
}

test('a file that comes or goes changes only the chunks between the fixed boundaries around it', () => {
  fc.assert(
    fc.property(
      filesArbitrary(60 * KIB, 60),
      fc.constantFrom(16 * KIB, 64 * KIB),
      fc.nat(),
      (files, chunkSize, pick) => {
        fc.pre(files.length > 0);
        const gone = pick % files.length;
        const large = (file: ArchiveFile | undefined): boolean =>
          file !== undefined && file.size >= chunkSize / 4;
        // Whether a boundary lies between two files that follow each other, whatever else the list holds.
        const fixed = (before: ArchiveFile | undefined, after: ArchiveFile | undefined): boolean =>
          before === undefined ||
          after === undefined ||
          before.class !== after.class ||
          large(before) ||
          large(after) ||
          breaksAfter(before.path);
        const joint = fixed(files[gone - 1], files[gone + 1]);
        let from = gone;
        while (!(fixed(files[from - 1], files[from]) && (from < gone || joint))) from -= 1;
        let to = gone + 1;
        while (!(fixed(files[to - 1], files[to]) && (to > gone + 1 || joint))) to += 1;
        const neighbours = new Set(files.slice(from, to).map((file) => file.path));
        const elsewhere = (layout: ChunkLayout): boolean =>
          !layout.segments.some((segment) => neighbours.has(segment.file.path));
        const all = [...planChunks(files, chunkSize)].filter(elsewhere).map(signature);
        const rest = [...planChunks(files.toSpliced(gone, 1), chunkSize)].filter(elsewhere).map(signature);
        assert.deepEqual(rest, all);
      },
    ),
    { numRuns: 500 },
  );
});

test('classes never share a chunk', () => {
  fc.assert(
    fc.property(filesArbitrary(8 * KIB), (files) => {
      for (const { segments } of planChunks(files, 64 * KIB)) {
        assert.ok(new Set(segments.map((segment) => segment.file.class)).size <= 1);
      }
    }),
  );
});

test('the archive order is by class, then bytewise by path', () => {
  const file = (path: string, kind: ArchiveFile['class']): ArchiveFile => ({ path, size: 1, class: kind });
  const sorted = [
    file('b', 'seal'),
    file('a', 'mutable'),
    file('Z', 'immutable'),
    file('a_', 'immutable'),
    file('aB', 'immutable'),
  ]
    .sort(compareFiles)
    .map(({ path }) => path);
  assert.deepEqual(sorted, ['Z', 'aB', 'a_', 'a', 'b']);
});

const small = (path: string, size = 100): ArchiveFile => ({ path, size, class: 'immutable' });
const SIZE = 64 * KIB;

const inconsistent: Record<string, (reader: ReturnType<typeof createChunkReader>) => void> = {
  'no archive end': (r) => r.end(),
  'a file without a chunk': (r) => {
    r.file(small('d/a'));
    r.end();
  },
  'an end while a file is pending': (r) => {
    r.file(small('d/a', 1000));
    r.chunk(1024);
    r.end();
  },
  'a chunk too short for its bundle': (r) => {
    r.file(small('d/a'));
    r.file(small('d/b'));
    r.chunk(1024);
  },
  'a chunk too long for its bundle': (r) => {
    r.file(small('d/a'));
    r.chunk(1536);
  },
  'a first chunk of nothing but a header': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(512);
  },
  'a first chunk without its padding': (r) => {
    r.file(small('d/a', 1000));
    r.chunk(512 + 1000);
  },
  'a last chunk without its padding': (r) => {
    r.file(small('d/a', 1000));
    r.chunk(512 + 500);
    r.chunk(500);
  },
  'a last chunk with too much padding': (r) => {
    r.file(small('d/a', 1000));
    r.chunk(512 + 500);
    r.chunk(1036);
  },
  'a file begun while another is open': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(512 + SIZE);
    r.file(small('d/b'));
  },
  'an end while a file is open': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(512 + SIZE);
    r.end();
  },
  'a chunk beyond the chunk size': (r) => {
    r.file(small('d/a', SIZE * 8));
    r.chunk(SIZE + MAX_CHUNK_OVERHEAD + 1);
  },
  'a bundle beyond the chunk size': (r) => {
    r.file(small('d/a', SIZE - 2000));
    r.file(small('d/b', 2000));
  },
  'a chunk of no file that is not the end': (r) => void r.chunk(512),
  'a chunk after the end': (r) => {
    r.chunk(1024);
    r.chunk(1024);
  },
  'a file after the end': (r) => {
    r.chunk(1024);
    r.file(small('d/a'));
  },
  'an empty chunk, which would never complete a file': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(512 + SIZE);
    r.chunk(0);
  },
  'a chunk of negative length': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(512 + SIZE);
    r.chunk(-SIZE);
  },
  'a chunk whose length is no number': (r) => {
    r.file(small('d/a', SIZE * 2));
    r.chunk(Number.NaN);
  },
};

for (const [what, sequence] of Object.entries(inconsistent)) {
  test(`the reader refuses ${what}`, () => {
    assert.throws(() => sequence(createChunkReader(SIZE)), coded('INDEX_CORRUPT'));
  });
}

test('the reader refuses a plan in which one length was changed, a chunk was dropped, doubled or swapped', () => {
  fc.assert(
    fc.property(
      filesArbitrary(100 * KIB),
      fc.nat(),
      fc.integer({ min: 0, max: 4 }),
      fc.integer({ min: 1, max: 5000 }),
      (files, pick, how, by) => {
        const chunkSize = 16 * KIB;
        const planned = [...planChunks(files, chunkSize)];
        const at = pick % planned.length;
        const chosen = planned[at];
        assert.ok(chosen);
        const changed =
          how === 0
            ? planned.toSpliced(at, 1, { ...chosen, length: chosen.length + by })
            : how === 1
              ? planned.toSpliced(at, 1, { ...chosen, length: chosen.length - by })
              : how === 2
                ? planned.toSpliced(at, 1)
                : how === 3
                  ? planned.toSpliced(at + 1, 0, { ...chosen, begins: [] })
                  : [...planned.slice(0, at), ...planned.slice(at + 1), chosen];
        // A changed sequence may still be a tar stream of the same files, cut elsewhere; then it must hold every byte once.
        let read: ChunkLayout[];
        try {
          read = readBack(changed, chunkSize);
        } catch (error) {
          coded('INDEX_CORRUPT')(error);
          return;
        }
        const reached = new Map<string, number>();
        for (const segment of read.flatMap((layout) => layout.segments)) {
          if (segment.kind !== 'data') continue;
          assert.equal(segment.offset, reached.get(segment.file.path) ?? 0);
          reached.set(segment.file.path, segment.offset + segment.length);
        }
        for (const file of read.flatMap((layout) => layout.begins)) {
          assert.equal(reached.get(file.path) ?? 0, file.size);
        }
      },
    ),
    { numRuns: 1000 },
  );
});

test('a plan of 16,000 files of 64 MiB each is streamed, not held', () => {
  function* files(): Generator<ArchiveFile> {
    for (let i = 0; i < 16_000; i++)
      yield small(`chains/x/db/full/${String(i).padStart(6, '0')}.sst`, 64 * KIB * KIB);
  }
  let chunks = 0;
  let highest = 0;
  const before = process.memoryUsage().heapUsed;
  for (const layout of planChunks(files(), 4 * KIB * KIB)) {
    chunks += 1;
    assert.ok(layout.segments.length <= 2);
    if (chunks % 20_000 === 0) highest = Math.max(highest, process.memoryUsage().heapUsed - before);
  }
  assert.equal(chunks, 16_000 * 16 + 1);
  assert.ok(highest < 64 * KIB * KIB, `the heap grew by ${highest} bytes`);
});
