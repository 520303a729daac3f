import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeDocument, sha256Schema } from '@presync/format/documents';
import { errnoOf, PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';
import { durableRename, replaceFile } from './durable.ts';
import { allPaths, exists, type PartPaths, readNote } from './stage.ts';

/**
 * Moves sealed folders to their databases' places; may be called again after it was interrupted at any point. First all old databases are moved aside, the first part's
 * before the others; then the new ones are moved in, the first part's last. So while that one has no database, the others may be old, absent or new, and
 * when it has one, all are old or all are new: a node never opens new and old ones together. What was moved aside is removed last.
 */
export async function swapIn(parts: readonly PartPaths[]): Promise<void> {
  try {
    for (const part of parts) await moveAside(part);
  } catch (error) {
    for (const part of parts.toReversed()) {
      if ((await exists(part.replaced)) && !(await exists(part.target)))
        await durableRename(part.replaced, part.target);
    }
    throw error;
  }
  for (const { stage, target } of parts.toReversed())
    if (await exists(stage)) await durableRename(stage, target);
  for (const { replaced } of parts) await rm(replaced, { recursive: true, force: true });
}

async function moveAside({ stage, target, replaced }: PartPaths): Promise<void> {
  if (!(await exists(stage)) || !(await exists(target))) return;
  await rm(replaced, { recursive: true, force: true });
  try {
    await durableRename(target, replaced);
  } catch (error) {
    if (errnoOf(error) !== 'EBUSY' && errnoOf(error) !== 'EXDEV') throw error;
    throw new PresyncError('TARGET_UNWRITABLE', `${target} cannot be replaced: it is a mount point`, {
      cause: error,
      hint: 'mount the volume at the base path or at the folder above the database',
    });
  }
}

const noteSchema = z.strictObject({
  presync: z.literal('swap'),
  version: z.literal(1),
  manifest: sha256Schema,
  /** What is moved, the main part first. */
  parts: z.array(z.strictObject({ part: z.string(), target: z.string() })).min(2),
});

/** Which databases are about to be replaced together: written before they are sealed, and removed when all are in place. */
export type SwapNote = z.infer<typeof noteSchema>;

function notePath({ work }: PartPaths): string {
  return join(work, 'swap.json');
}

export async function writeSwap(parts: readonly PartPaths[], manifest: string): Promise<void> {
  const [main] = parts;
  if (main === undefined || parts.length < 2) return;
  const note: SwapNote = {
    presync: 'swap',
    version: 1,
    manifest,
    parts: parts.map(({ part, target }) => ({ part, target })),
  };
  await replaceFile(notePath(main), encodeDocument(note));
}

export async function readSwap(main: PartPaths): Promise<SwapNote | undefined> {
  return readNote(notePath(main), noteSchema);
}

export async function dropSwap(main: PartPaths): Promise<void> {
  await rm(notePath(main), { force: true });
}

/** True when the note is of this very swap, and each part is where a swap that was interrupted can have left it. */
export async function isSwapOf(
  note: SwapNote | undefined,
  parts: readonly PartPaths[],
  manifest: string,
): Promise<boolean> {
  if (note?.manifest !== manifest || note.parts.length !== parts.length) return false;
  for (const [index, { target, stage }] of parts.entries()) {
    if (note.parts[index]?.target !== target) return false;
    if (!(await exists(stage)) && !(await exists(target))) return false;
  }
  return true;
}

/** Brings the old databases back from a swap that was interrupted and is not wanted any more; the main one last. */
export async function undoSwap(note: SwapNote): Promise<void> {
  const [main, ...others] = allPaths(note.parts);
  if (main === undefined) return;
  // Where the main one has a database, all old ones are in place still, or all new ones are.
  if (!(await exists(main.target))) {
    for (const { stage, target, replaced } of others) {
      if (!(await exists(stage)) && (await exists(target))) await durableRename(target, stage);
      if ((await exists(replaced)) && !(await exists(target))) await durableRename(replaced, target);
    }
    if (await exists(main.replaced)) await durableRename(main.replaced, main.target);
  }
  await dropSwap(main);
}
