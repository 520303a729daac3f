import { isPresyncError } from '@presync/runtime/errors';
import { downloadIndex, resolveSnapshot, type Snapshot } from '../repository.ts';
import type { UploadOptions } from '../snapshot.ts';
import type { ChunkTable } from './chunk-table.ts';
import { chunksOf } from './local-index.ts';

/**
 * Fills `known` from the channel's newest snapshot, if that one is sound and, where this writer signs, signed by one of its keys. `indexPath` is
 * where its index is kept meanwhile.
 */
export async function loadPrevious(
  options: Pick<UploadOptions, 'repository' | 'channel' | 'keys' | 'onEvent' | 'signal'>,
  known: Pick<ChunkTable, 'add'>,
  indexPath: string,
): Promise<Snapshot> {
  const { repository, channel, keys, signal } = options;
  const previous = await resolveSnapshot(repository, {
    channel,
    snapshot: 'latest',
    trusted: 'anybody',
    allowExpired: true,
    signal,
  });
  try {
    await resolveSnapshot(repository, {
      channel,
      snapshot: previous.manifest.sequence,
      trusted: keys.length > 0 ? keys : 'anybody',
      allowExpired: true,
      signal,
    });
    await downloadIndex(repository, previous.manifest, indexPath, { signal });
    for await (const chunk of chunksOf(repository, previous.manifest, indexPath, signal)) known.add(chunk);
  } catch (error) {
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    // A snapshot that cannot be trusted is not built upon; everything is then offered to the store anew.
    options.onEvent?.(
      'snapshot.previous_unusable',
      'the newest snapshot cannot be built upon; everything is offered anew',
      {
        sequence: previous.manifest.sequence,
        code: error.code,
        reason: error.message,
      },
    );
  }
  return previous;
}
