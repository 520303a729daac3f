import { allPaths, type PartTarget, stagedBytes } from './lib/stage.ts';

/** Bytes on disk that earlier attempts at restoring these databases have left, and that the next one goes on with. */
export async function stagedSoFar(targets: readonly PartTarget[]): Promise<number> {
  let bytes = 0;
  for (const part of allPaths(targets)) bytes += await stagedBytes(part);
  return bytes;
}
