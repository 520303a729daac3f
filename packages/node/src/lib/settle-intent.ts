import type { OnOutput, ReleaseOutcome } from './hold.ts';
import { holdOf } from './hold-of.ts';
import { type PauseIntent, removeIntent } from './intent.ts';
import { endsWithBoot } from './pause-target.ts';
import { isAlive } from './proc.ts';

/** Whether the presync that wrote the intent still lives. */
export function isOwned({ owner, bootId }: PauseIntent, currentBoot: string): boolean {
  return bootId === currentBoot && isAlive(owner);
}

/** Brings back the node of an intent whose presync has ended, and removes the intent and what came with it. */
export async function settleIntent(
  { path, intent }: { path: string; intent: PauseIntent },
  currentBoot: string,
  options: { onOutput?: OnOutput | undefined },
): Promise<ReleaseOutcome> {
  const hold = holdOf(intent.target, options);
  const outcome =
    intent.bootId === currentBoot || !endsWithBoot(intent.target) ? await hold.release() : 'gone';
  await removeIntent(path);
  await hold.cleanUp?.();
  return outcome;
}
