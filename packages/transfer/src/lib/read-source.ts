import type { ChunkLayout } from '@presync/format/chunks';
import { PresyncError } from '@presync/runtime/errors';
import type { SourceFile } from '../source.ts';
import { readChunk } from './read-chunk.ts';

/** A chunk's plaintext from the frozen view. NODE_CHANGED when the view does not hold what it held when it was listed. */
export async function readSource(
  layout: ChunkLayout<SourceFile>,
  buffer: Buffer,
  signal: AbortSignal,
): Promise<Buffer> {
  const plain = await readChunk(layout, buffer, (file) => file.readPath, signal);
  if (plain !== undefined) return plain;
  const names = [...new Set(layout.segments.map(({ file }) => file.path))].slice(0, 3).join(', ');
  throw new PresyncError('NODE_CHANGED', `one of ${names} vanished or shrank while it was read`, {
    hint: 'nothing must write to a frozen view; with --pause none the node must be stopped',
  });
}
