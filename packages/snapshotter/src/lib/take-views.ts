import { join } from 'node:path';
import type { DatabaseLayout } from '@presync/node/layout';
import { type Pauser, type PauseSettings, withPause } from '@presync/node/pause';
import type { NodeRpc } from '@presync/node/rpc';
import { type FrozenView, openCopy, type PreparedView, prepareView } from '@presync/node/view';
import { delay } from './delay.ts';
import type { ChainFacts } from './pass-gates.ts';
import { lockPause } from './pause-lock.ts';
import type { SourceDatabases, SourceNodeOptions } from './source-node.ts';

export interface ViewContext {
  options: SourceNodeOptions;
  layouts: SourceDatabases;
  pauser: Pauser;
  rpc: NodeRpc | undefined;
  facts: ChainFacts;
  /** When the anchor was seen to be final, by the monotonic clock. */
  finalSince: number;
}

/** One view of each database, in their order, all of one pause. */
export async function takeViews({ options, layouts, pauser, rpc, facts, finalSince }: ViewContext): Promise<{
  views: FrozenView[];
  seconds: number;
  head: { number: number; hash: string } | null;
}> {
  const { signal, log } = options;
  options.onPhase?.('prepare');
  const prepared: PreparedView[] = [];
  try {
    for (const layout of isCopied(options.pause) ? [] : layouts)
      prepared.push(
        await prepareView({
          layout,
          viewDir: viewDirOf(layout, options),
          onProgress: () => options.onMove?.(),
          signal,
        }),
      );
    // What the node has only in memory is not in the copy; a block that is final for a while has long been written.
    options.onPhase?.('anchor');
    if (facts.anchor !== null) await delay(options.anchorAgeMs - (performance.now() - finalSince), signal);
    options.onPhase?.('pause');
    const lock = await lockPause(layouts[0], { log, signal });
    try {
      const head = rpc === undefined ? null : await rpc.best();
      const { views, seconds } = isCopied(options.pause)
        ? await openCopied(pauser, layouts[0], signal)
        : await freezeAll(pauser, prepared, signal);
      for (const [index, view] of views.entries()) {
        log.info('view.frozen', 'the view is frozen, the node runs', {
          seconds,
          database: layouts[index]?.archivePrefix,
          files: view.files.length,
          copiedBytes: view.bytesCopiedInPause,
          ...view.methods,
        });
      }
      return { views, seconds, head };
    } finally {
      await lock.release();
    }
  } catch (error) {
    for (const view of prepared) await view.discard();
    throw error;
  }
}

/** True where hooks leave a copy: that is the view. */
export function isCopied({ strategy, hookView }: PauseSettings): boolean {
  return strategy === 'hooks' && hookView !== undefined;
}

async function openCopied(
  pauser: Pauser,
  layout: DatabaseLayout,
  signal: AbortSignal,
): Promise<{ views: FrozenView[]; seconds: number }> {
  const { result, seconds, release } = await withPause(pauser, { signal }, ({ copy, signal: budget }) =>
    openCopy(layout, copy ?? layout.basePath, { signal: budget }),
  );
  return { views: [{ ...result, release }], seconds };
}

async function freezeAll(
  pauser: Pauser,
  prepared: readonly PreparedView[],
  signal: AbortSignal,
): Promise<{ views: FrozenView[]; seconds: number }> {
  const { result: views, seconds } = await withPause(pauser, { signal }, async (budget) => {
    const frozen: FrozenView[] = [];
    for (const view of prepared) frozen.push(await view.freeze({ signal: budget.signal }));
    return frozen;
  });
  return { views, seconds };
}

/** Where the view of a database is made: a database that lies in another one's folder has its views beside that. */
export function viewDirOf(
  layout: DatabaseLayout,
  { viewDir }: Pick<SourceNodeOptions, 'viewDir'>,
): string | undefined {
  if (viewDir !== undefined || !/^(?:relay-)?parachains$/.test(layout.role ?? '')) return viewDir;
  return join(layout.dir, layout.backend === 'rocksdb' ? '../../..' : '..', '.presync');
}
