import { isPresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { ComposedSources } from '@presync/store/compose';
import { openRepository, type Repository } from '@presync/transfer/repository';

/** How long the other sources get to say which repository they hold. */
const ASK_MS = 2000;

/**
 * Has chunks read only from sources that hold the repository. One with another, as a peer that offers its own database, has other chunks, or the same
 * ones in other frames: asked for them, it would look like one that gives wrong bytes. One that does not answer in time is asked all the same.
 */
export async function keepToRepository(
  repository: Repository,
  { from, log, signal }: { from: ComposedSources; log: Logger; signal: AbortSignal },
): Promise<void> {
  from.sources.takeIn(repository.store.location);
  const others = from.stores.filter((store) => store !== repository.store);
  const soon = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
  await Promise.all(
    others.map(async (store) => {
      try {
        const { id } = await openRepository(store, { signal: soon });
        if (id === repository.id) {
          from.sources.takeIn(store.location);
          return;
        }
        from.sources.leaveOut(store.location, `it holds another repository, ${id}`);
        log.info('source.other', `${store.location} holds another repository, and is not asked for chunks`, {
          source: store.location,
          repository: id,
        });
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error)) throw error;
      }
    }),
  );
}
