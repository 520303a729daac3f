import { zeroDigest } from '@presync/format/digest';
import { readIndex } from '@presync/format/index-file';
import { repositoryKeys } from '@presync/format/paths';
import type { ObjectStore } from '@presync/store/object-store';
import type { Readable } from '@presync/store/speed';
import { openRepository, resolveSnapshot } from '@presync/transfer/repository';

/** Enough to measure with. */
const MAX_CHUNKS = 256;

/** Bytes of the index that are asked for at a time: its beginning is enough. */
const RANGE_BYTES = 256 * 1024;

/** Chunks of a channel's newest snapshot, as its index names them: for a store that cannot be listed. */
export async function knownChunks(
  store: ObjectStore,
  channel: string,
  signal: AbortSignal,
): Promise<Readable[]> {
  const repository = await openRepository(store, { signal });
  // What only measures need not trust.
  const { manifest } = await resolveSnapshot(repository, {
    channel,
    snapshot: 'latest',
    trusted: 'anybody',
    allowExpired: true,
    signal,
  });
  const key = repositoryKeys.index(channel, manifest.sequence);
  async function* bytes(): AsyncGenerator<Uint8Array> {
    for (let offset = 0; offset < manifest.index.size; offset += RANGE_BYTES) {
      const length = Math.min(RANGE_BYTES, manifest.index.size - offset);
      yield (await store.read(key, { range: { offset, length }, maxBytes: length, signal })).bytes;
    }
  }
  const found: Readable[] = [];
  const chunks = readIndex(bytes(), {
    length: manifest.index.length,
    chunkSize: repository.chunkSize,
    parts: manifest.node.parts.map(({ path }) => path),
    what: key,
    signal,
  });
  const zeros = zeroDigest(repository.chunkSize);
  for await (const chunk of chunks) {
    // Agents never fetch a chunk of zeros.
    if (chunk.sha256 !== zeros)
      found.push({ key: repositoryKeys.chunk(chunk.sha256), size: chunk.storedSize });
    if (found.length >= MAX_CHUNKS) break;
  }
  return found;
}
