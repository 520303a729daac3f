import { listViews } from '@presync/node/view';
import { PresyncError } from '@presync/runtime/errors';
import type { Metrics } from '@presync/runtime/metrics';
import { type DatabasePlace, locateDatabases, type SourceNodeOptions } from './source-node.ts';
import { viewDirOf } from './take-views.ts';

/** Shows how many views are there that nobody needs any more. Those of other presyncs that live are theirs. */
export async function measureViews(
  options: DatabasePlace & Pick<SourceNodeOptions, 'viewDir'>,
  { metrics, isIdle }: { metrics: Metrics; isIdle: () => boolean },
): Promise<void> {
  try {
    // Several databases may have their views in one folder.
    const left = new Set<string>();
    for (const layout of await locateDatabases(options)) {
      for (const { dir, owner } of await listViews(layout, { viewDir: viewDirOf(layout, options) }))
        if (owner === 'ended' || (owner === 'self' && isIdle())) left.add(dir);
    }
    metrics.snapshot.viewsLeft.set(left.size);
  } catch (error) {
    // Runs tell of what is wrong with these folders; a number that is not there is not made up.
    if (!(error instanceof PresyncError)) throw error;
  }
}
