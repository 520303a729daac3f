import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from '@presync/runtime/errors';
import { createNodeAsker, type NodeAnswer, type ReadyRules } from './ask-node.ts';

export interface WatchOptions extends ReadyRules {
  /** Called when the node ceases to be right, and when it is right again. */
  onChange: (answer: NodeAnswer) => void;
  signal: AbortSignal;
}

const LOOK_EVERY_MS = 2000;
/** One slow answer is no reason to send everybody away. */
const WRONG_LOOKS = 2;

/**
 * Looks at a node that was ready until the signal fires, which is no error.
 *
 * @throws NODE_WRONG_CHAIN
 */
export async function watchNode({ onChange, signal, ...rules }: WatchOptions): Promise<void> {
  const asker = createNodeAsker(rules);
  let right = true;
  let wrongLooks = 0;
  try {
    while (!signal.aborted) {
      const answer = await asker.ask(signal);
      wrongLooks = answer.ok ? 0 : wrongLooks + 1;
      if (right ? wrongLooks >= WRONG_LOOKS : answer.ok) {
        right = answer.ok;
        onChange(answer);
      }
      await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
    }
  } catch (error) {
    if (signal.aborted) return;
    throwIfAborted(signal);
    throw error;
  } finally {
    await asker.close();
  }
}
