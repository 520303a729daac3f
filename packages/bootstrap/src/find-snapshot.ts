import { PresyncError } from '@presync/runtime/errors';
import { type ChooseOptions, createChoice, type FoundSnapshot } from './choose-snapshot.ts';

export type { FoundSnapshot } from './choose-snapshot.ts';
export { onlyChannel } from './lib/choose-channel.ts';

/** Which snapshot, without a way out when that one is not fit. */
export type FindSnapshotOptions = Omit<ChooseOptions, 'fallback'>;

/** The snapshot that was asked for, from the first source that has a fit one. The first source's refusal is thrown when none has. */
export async function findSnapshot(options: FindSnapshotOptions): Promise<FoundSnapshot> {
  const found = await createChoice(options).next();
  if (found.kind === 'snapshot') return found;
  throw new PresyncError('INTERNAL', 'a choice without fall-backs has fallen back');
}
