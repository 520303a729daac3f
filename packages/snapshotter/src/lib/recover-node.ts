import { recoverPauses } from '@presync/node/pause';
import type { Logger } from '@presync/runtime/log';

/** Brings back a node that an earlier presync has left paused, and tells of it. */
export async function recoverNode({
  stateDir,
  log,
  signal,
}: {
  stateDir: string;
  log: Logger;
  signal: AbortSignal;
}): Promise<void> {
  const onOutput = (line: string): void => log.info('hook.output', line);
  for (const recovered of await recoverPauses({ stateDir, onOutput, signal })) {
    log.warn('pause.recovered', 'an earlier presync had left an intent to pause; the node runs', {
      ...recovered,
    });
  }
}
