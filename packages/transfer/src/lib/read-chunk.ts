import { type FileHandle, open } from 'node:fs/promises';
import type { ArchiveFile, ChunkLayout, Segment } from '@presync/format/chunks';
import { tarHeader } from '@presync/format/tar';
import { throwIfAborted } from '@presync/runtime/errors';

/**
 * Builds a chunk's plaintext in `buffer` from files on disk. Returns undefined when a file is not there or has another size
 * than the segments need. `pathOf` maps a file to where its bytes are.
 */
export async function readChunk<F extends ArchiveFile>(
  layout: Pick<ChunkLayout<F>, 'segments' | 'length'>,
  buffer: Buffer,
  pathOf: (file: F) => string,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const plain = buffer.subarray(0, layout.length);
  let filled = 0;
  let opened: { file: F; handle: FileHandle } | undefined;
  try {
    for (const segment of layout.segments) {
      throwIfAborted(signal);
      // Padding is the only thing between segments; the buffer may hold an earlier chunk.
      plain.fill(0, filled, segment.at);
      filled = segment.at + segment.length;
      if (segment.kind === 'header') {
        (await tarHeader(segment.file.path, segment.file.size)).copy(plain, segment.at);
        continue;
      }
      if (opened?.file !== segment.file) {
        await opened?.handle.close();
        opened = undefined;
        const handle = await openForReading(pathOf(segment.file));
        if (handle === undefined) return undefined;
        opened = { file: segment.file, handle };
      }
      if (!(await readFully(opened.handle, plain, segment))) return undefined;
    }
    plain.fill(0, filled);
    return plain;
  } finally {
    await opened?.handle.close();
  }
}

async function openForReading(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR'))
      return undefined;
    throw error;
  }
}

async function readFully<F extends ArchiveFile>(
  handle: FileHandle,
  plain: Buffer,
  segment: Segment<F> & { kind: 'data' },
): Promise<boolean> {
  for (let done = 0; done < segment.length; ) {
    const { bytesRead } = await handle.read(
      plain,
      segment.at + done,
      segment.length - done,
      segment.offset + done,
    );
    if (bytesRead === 0) return false;
    done += bytesRead;
  }
  return true;
}
