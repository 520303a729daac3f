import { throwIfAborted } from '@presync/runtime/errors';
import type { OnOutput, ReleaseOutcome } from './hold.ts';
import { sweepHookFiles } from './hooks-hold.ts';
import { currentBootId, listIntents, removeIntent } from './intent.ts';
import { describeTarget } from './pause-target.ts';
import { isOwned, settleIntent } from './settle-intent.ts';

/** A pause that an earlier presync left behind. */
export interface RecoveredPause {
  /** Name of the intent file that was removed. */
  intentPath: string;
  /** Who was paused, as `process 4711` or `unit polkadot.service`; undefined when the intent was unreadable. */
  node: string | undefined;
  /**
   * - `resumed`: the node was found held and runs again, or the after hook ran.
   * - `running`: it runs already (the deadman, or somebody else, had resumed it).
   * - `gone`: the node has ended, or the machine was started anew since.
   * - `unreadable`: the file was no intent; nothing could be done but remove it.
   */
  outcome: ReleaseOutcome | 'unreadable';
  byDeadman: boolean;
}

/**
 * Brings back every node that was paused by a presync that has ended, and removes the intents. Intents of a presync that is
 * alive are left alone. To be called at each start and stop of the service; may be called at any time.
 *
 * @throws NODE_RESUME_FAILED when a node does not come back; its intent is kept
 * @throws IO_FAILED, ABORTED
 */
export async function recoverPauses(options: {
  stateDir: string;
  /** What the user's hooks say. */
  onOutput?: OnOutput | undefined;
  signal: AbortSignal;
}): Promise<RecoveredPause[]> {
  const recovered: RecoveredPause[] = [];
  const bootId = await currentBootId();
  const failures: unknown[] = [];
  for (const { path, intent, byDeadman } of await listIntents(options.stateDir)) {
    throwIfAborted(options.signal);
    if (intent !== undefined && isOwned(intent, bootId)) continue;
    let outcome: RecoveredPause['outcome'] = 'unreadable';
    try {
      if (intent === undefined) await removeIntent(path);
      else outcome = await settleIntent({ path, intent }, bootId, options);
    } catch (error) {
      // The other nodes must come back as well.
      failures.push(error);
      continue;
    }
    const node = intent === undefined ? undefined : describeTarget(intent.target);
    recovered.push({ intentPath: path, node, outcome, byDeadman });
  }
  await sweepHookFiles(options.stateDir);
  if (failures.length > 0) throw failures[0];
  return recovered;
}
