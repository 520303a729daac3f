import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest } from '@presync/format/manifest';
import type { PrivateKey } from '@presync/format/signature';
import { type DatabaseLayout, scanDatabase } from '@presync/node/layout';
import { ioError, messageOf, PresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import { exactBytes } from '@presync/runtime/units';
import { countChunks, MAX_VIEW_CHUNKS, offerView } from '@presync/transfer/offer';
import { assertChannel, DEFAULT_CHUNK_SIZE } from '@presync/transfer/repository';
import type { ProveMode } from '@presync/transfer/snapshot';
import { findSource, openSource, type SourceNodeOptions } from './lib/source-node.ts';
import { type ServeOptions, serve } from './serve.ts';

export interface ServeViewOptions
  extends SourceNodeOptions,
    Omit<ServeOptions, 'store' | 'onListening' | keyof SourceNodeOptions> {
  /** Default `<chain spec id>/<backend>`. */
  channel?: string | undefined;
  keys: readonly PrivateKey[];
  chunkSize?: number | undefined;
  concurrency?: number | undefined;
  prove?: ProveMode | undefined;
  progress: ProgressSink;
  /** Called once, with the URL for --source and what is offered there, when the server listens. */
  onListening?: ((url: string, manifest: Manifest) => void) | undefined;
}

/**
 * Offers the node's own database to other machines until the signal fires, without storing a copy of it: takes a frozen view as a snapshot does, hashes
 * it, signs a manifest, and makes each chunk from the view's files when somebody asks. The view is removed at the end; one that a killed
 * process has left, at the next start of anything that takes views of this database.
 *
 * The node is paused under the same guarantees as for a snapshot, and snapshots of it may be taken meanwhile.
 */
export async function serveView(options: ServeViewOptions): Promise<void> {
  const { signal } = options;
  const [layout] = await findSource(options);
  const channel = assertChannel(options.channel ?? `${layout.chainId}/${layout.backend}`);
  const dir = await makeOfferFolder(options.stateDir, channel, layout);
  const lock = await acquireLock({ name: 'offer', dir, signal });
  try {
    await serveLocked(options, { layout, channel, dir });
  } finally {
    await lock.release();
  }
}

async function serveLocked(
  options: ServeViewOptions,
  { layout, channel, dir }: { layout: DatabaseLayout; channel: string; dir: string },
): Promise<void> {
  const { log, progress, signal, chunkSize = DEFAULT_CHUNK_SIZE } = options;
  await assertFits(layout, chunkSize, signal);
  const source = await openSource(options, [layout]);
  try {
    const frozen = await source.freeze();
    try {
      progress.start({ label: `Reading ${channel}`, total: frozen.bytes });
      const offer = await offerView({
        channel,
        files: frozen.files,
        databaseIdentity: frozen.databaseIdentity,
        describe: frozen.describe,
        keys: options.keys,
        chunkSize,
        sequence: sequenceOf(new Date()),
        dir,
        location: `the frozen view of ${layout.dir}`,
        concurrency: options.concurrency,
        prove: options.prove,
        onProgress: (bytes) => progress.advance(bytes),
        onEvent: (event, message, details) => log.info(event, message, details),
        onDamage: ({ message, code, cause }) =>
          log.error('view.damaged', message, cause === undefined ? { code } : { code, error: cause }),
        signal,
      });
      try {
        progress.finish();
        // Nobody waits for the node's next block, which may take a while; then its RPC is of no more use.
        const watched = frozen.advancing
          .then(() => source.close())
          .catch((error: unknown) =>
            log.warn('rpc.not_closed', 'the RPC was not closed', { reason: messageOf(error) }),
          );
        await serve({
          ...options,
          store: offer.store,
          onListening: (url) => options.onListening?.(url, offer.manifest),
        });
        await watched;
      } finally {
        await offer.close();
      }
    } finally {
      await frozen.release();
    }
  } finally {
    await source.close();
  }
}

/**
 * Seconds since 1970: so the number tells one offer of this database from another, and asking for one that is gone fails. That it grows matters to
 * nobody, since each offer is a repository of its own.
 */
function sequenceOf(now: Date): number {
  return Math.max(1, Math.floor(now.getTime() / 1000));
}

/** One folder for each channel and database, mode 0700, so that several nodes of one machine may share the state folder. */
async function makeOfferFolder(
  stateDir: string,
  channel: string,
  { dir: database }: DatabaseLayout,
): Promise<string> {
  const digest = createHash('sha256').update(database).digest('hex').slice(0, 16);
  const dir = join(stateDir, 'offers', `${channel.replace('/', '-')}-${digest}`);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    return dir;
  } catch (error) {
    throw ioError(error, 'make', dir);
  }
}

/** Refuses, before the node is paused, a database of more chunks than can be kept track of. */
async function assertFits(layout: DatabaseLayout, chunkSize: number, signal: AbortSignal): Promise<void> {
  const files = (await scanDatabase(layout, { signal })).map(({ archivePath, size, class: kind }) => ({
    path: archivePath,
    size,
    class: kind,
  }));
  const chunks = countChunks(files, chunkSize);
  if (chunks <= MAX_VIEW_CHUNKS) return;
  const larger = chunkSize * 2 ** Math.ceil(Math.log2(chunks / MAX_VIEW_CHUNKS));
  throw new PresyncError(
    'CONFIG_INVALID',
    `${layout.dir} would be ${chunks} chunks of ${exactBytes(chunkSize)}, more than the ${MAX_VIEW_CHUNKS} that can be offered`,
    { hint: `give a larger chunk size: --chunk-size ${exactBytes(larger)}` },
  );
}
