import assert from 'node:assert/strict';
import type { ArchiveFile, ChunkLayout } from '@presync/format/chunks';
import { tarHeader } from '@presync/format/tar';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';

export const KIB = 1024;

/** A validator for assert.throws and assert.rejects: a PresyncError with one of the codes. */
export function coded(...codes: ErrorCode[]): (error: unknown) => true {
  return (error) => {
    assert.ok(isPresyncError(error), `not a PresyncError: ${String(error)}`);
    assert.ok(codes.includes(error.code), `${error.code}, not ${codes.join(' or ')}: ${error.message}`);
    return true;
  };
}

/** Bytes that depend on the path and the offset, so that nothing can be taken for anything else. */
export function contentOf(file: ArchiveFile, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let seed = 7;
  for (const character of file.path) seed = (seed * 31 + character.charCodeAt(0)) % 65521;
  for (let i = 0; i < length; i++) bytes[i] = (seed + (offset + i) * 13 + ((offset + i) >> 8)) & 0xff;
  return bytes;
}

/** The plaintext of a chunk, built from its segments alone. */
export async function plaintextOf(
  layout: ChunkLayout,
  content: (file: ArchiveFile, offset: number, length: number) => Buffer = contentOf,
): Promise<Buffer> {
  const plain = Buffer.alloc(layout.length);
  for (const segment of layout.segments) {
    const bytes =
      segment.kind === 'header'
        ? await tarHeader(segment.file.path, segment.file.size)
        : content(segment.file, segment.offset, segment.length);
    assert.equal(bytes.length, segment.length);
    plain.set(bytes, segment.at);
  }
  return plain;
}

const name = fc
  .stringMatching(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,40}$/)
  .filter((text) => text.length > 0 && text.length <= 128);
const longName = fc.integer({ min: 90, max: 128 }).map((length) => 'n'.repeat(length));

/** A path in one of two folders; some need a prefix, some a PAX record. */
export const pathArbitrary = fc
  .tuple(
    fc.constantFrom('chains/x/db/full', `chains/${'d'.repeat(100)}/full`),
    fc.oneof({ weight: 6, arbitrary: name }, { weight: 1, arbitrary: longName }),
  )
  .map(([folder, file]) => `${folder}/${file}`)
  .filter((path) => path.length <= 255);

const RANKS = ['immutable', 'mutable', 'seal'];

/** A list of distinct files in archive order, ordered here without the code under test. */
export function filesArbitrary(maxSize: number, maxLength = 25): fc.Arbitrary<ArchiveFile[]> {
  return fc
    .uniqueArray(
      fc.record({
        path: pathArbitrary,
        size: fc.oneof(fc.integer({ min: 0, max: 2000 }), fc.integer({ min: 0, max: maxSize })),
        class: fc.constantFrom('immutable' as const, 'mutable' as const, 'seal' as const),
      }),
      { selector: (file) => file.path.toLowerCase(), maxLength },
    )
    .map((files) =>
      files.sort(
        (a, b) =>
          RANKS.indexOf(a.class) - RANKS.indexOf(b.class) ||
          Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)),
      ),
    );
}
