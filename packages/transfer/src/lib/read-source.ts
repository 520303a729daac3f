import type { ChunkLayout } from '@presync/format/chunks';
import { PresyncError } from '@presync/runtime/errors';
import type { SourceFile } from '../source.ts';
import { shapeOf } from './chunk-shape.ts';
import type { ChunkAnswers } from './chunk-tasks.ts';
import type { ChunkWorkers } from './chunk-workers.ts';

/**
 * Has a chunk read from the frozen view and hashed; a worker keeps its plaintext until it is encoded or dropped. NODE_CHANGED when the
 * view does not hold what it held when it was listed.
 */
export async function readSource(
  workers: ChunkWorkers,
  layout: ChunkLayout<SourceFile>,
): Promise<NonNullable<ChunkAnswers['read']>> {
  const read = await workers.run({
    kind: 'read',
    shape: shapeOf(layout, (file) => ({ path: file.readPath })),
  });
  if (read !== undefined) return read;
  const names = [...new Set(layout.segments.map(({ file }) => file.path))].slice(0, 3).join(', ');
  throw new PresyncError('NODE_CHANGED', `one of ${names} vanished or shrank while it was read`, {
    hint: 'nothing must write to a frozen view; with --pause none the node must be stopped',
  });
}
