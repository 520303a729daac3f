import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createPlacer, layoutAt } from '@presync/format/chunk-places';
import { type ArchiveFile, planChunks } from '@presync/format/chunks';
import fc from 'fast-check';
import { filesArbitrary, KIB } from './support.ts';

test('a place gives back exactly the layout that was planned there', () => {
  fc.assert(
    fc.property(
      filesArbitrary(200 * KIB, 40),
      fc.constantFrom(4 * KIB, 16 * KIB, 64 * KIB),
      (files, chunkSize) => {
        const placeOf = createPlacer(chunkSize);
        for (const layout of planChunks(files, chunkSize)) {
          const place = placeOf(layout);
          assert.deepEqual(layoutAt(files, place, chunkSize), layout, JSON.stringify(place));
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('files at the edges of a chunk, empty ones and an empty archive have places too', () => {
  const chunkSize = 16 * KIB;
  const file = (name: string, size: number): ArchiveFile => ({
    path: `chains/x/db/full/${name}`,
    size,
    class: 'immutable',
  });
  for (const sizes of [
    [],
    [0],
    [0, 0, 0],
    [chunkSize],
    [chunkSize + 1],
    [2 * chunkSize],
    [chunkSize / 4],
    [chunkSize / 4 - 1],
    [1, chunkSize, 0, 3 * chunkSize + 5, 7],
  ]) {
    const files = sizes.map((size, index) => file(`${String(index).padStart(6, '0')}.sst`, size));
    const placeOf = createPlacer(chunkSize);
    for (const layout of planChunks(files, chunkSize)) {
      const place = placeOf(layout);
      assert.deepEqual(layoutAt(files, place, chunkSize), layout, JSON.stringify({ sizes, place }));
      // They are kept as three 32-bit numbers.
      for (const value of Object.values(place)) assert.ok(Number.isInteger(value) && value >= 0);
    }
  }
});
