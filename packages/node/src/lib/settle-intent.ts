import { stopTimer } from './deadman.ts';
import type { OnOutput, ReleaseOutcome } from './hold.ts';
import { holdOf } from './hold-of.ts';
import { type PauseIntent, removeIntent } from './intent.ts';
import { endsWithBoot } from './pause-target.ts';
import { isAlive } from './proc.ts';

/** Whether the presync that wrote the intent still lives. */
export function isOwned({ owner, bootId }: PauseIntent, currentBoot: string): boolean {
  return bootId === currentBoot && isAlive(owner);
}

/** Brings back the node of an intent whose presync has ended, and removes the intent and what came with it, the deadman's timer too. */
export async function settleIntent(
  { path, intent }: { path: string; intent: PauseIntent },
  currentBoot: string,
  options: { onOutput?: OnOutput | undefined },
): Promise<ReleaseOutcome> {
  const hold = holdOf(intent.target, options);
  const outcome =
    intent.bootId === currentBoot || !endsWithBoot(intent.target) ? await hold.release() : 'gone';
  // The node is back, so nobody need stand by. Before the script that it would run goes, so that it never runs into nothing.
  await stopTimer(intent.id);
  await removeIntent(path);
  await hold.cleanUp?.();
  return outcome;
}
