import { isPresyncError } from '@presync/runtime/errors';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { listPins } from '@presync/transfer/pins';
import { quarantineOf, readProof } from '@presync/transfer/proof';
import { listSequences, openRepository, readLatest, resolveSnapshot } from '@presync/transfer/repository';
import { allChannels } from '@presync/transfer/verify-repository';
import type { CommandHandler } from '../command.ts';

interface Row {
  channel: string;
  sequence: number;
  newest: boolean;
  created: string | null;
  expires: string | null;
  expired: boolean;
  pinned: boolean;
  /** A block that it holds for sure, and the highest that it can hold. */
  anchor: number | null;
  head: number | null;
  bytes: number | null;
  added: number | null;
  signedBy: string[];
  /** Why the snapshot must not be used, if it has not passed its proof. */
  quarantine: string | null;
  /** Why manifest or proof cannot be read. */
  problem: string | null;
}

export const list: CommandHandler<'list'> = async ({ config, signal }) => {
  const store = await composeStore(config.store, { access: await readStoreAccess(config), signal });
  try {
    const repository = await openRepository(store, { signal });
    // Also those that have nothing but what is in quarantine.
    const channels = config.channel === undefined ? await allChannels(repository, signal) : [config.channel];
    const pins = await listPins(repository, { signal });
    const rows: Row[] = [];
    for (const channel of channels) {
      const latest = await readLatest(repository, channel, { signal });
      for (const sequence of await listSequences(repository, channel, { signal })) {
        rows.push(await describe(sequence, sequence === latest?.document.sequence));
        async function describe(number: number, newest: boolean): Promise<Row> {
          const pinned = pins.get(channel)?.has(number) ?? false;
          try {
            // Looking is not trusting: list shows who signed, and checks nobody.
            const snapshot = await resolveSnapshot(repository, {
              channel,
              snapshot: number,
              trusted: 'anybody',
              allowExpired: true,
              signal,
            });
            const proof = await readProof(repository, { channel, sequence: number, signal });
            const { created, expires, chain, totals } = snapshot.manifest;
            return {
              channel,
              sequence: number,
              newest,
              created,
              expires,
              expired: expires !== null && Date.now() >= Date.parse(expires),
              pinned,
              anchor: chain.anchor?.number ?? null,
              head: chain.head?.number ?? null,
              bytes: totals.bytes,
              added: totals.added,
              signedBy: snapshot.signedBy,
              quarantine: quarantineOf(proof, snapshot) ?? null,
              problem: null,
            };
          } catch (error) {
            if (!isPresyncError(error) || error.exitCode !== 4) throw error;
            return {
              channel,
              sequence: number,
              newest,
              created: null,
              expires: null,
              expired: false,
              pinned,
              anchor: null,
              head: null,
              bytes: null,
              added: null,
              signedBy: [],
              quarantine: null,
              problem: error.message,
            };
          }
        }
      }
    }
    return {
      json: {
        store: store.location,
        repository: { id: repository.id, chunkSize: repository.chunkSize },
        snapshots: rows,
      },
      text: rows.length === 0 ? [`${store.location} holds no snapshot.`] : rows.map(line),
    };
  } finally {
    await store.close();
  }
};

function line(row: Row): string {
  const marks = [...(row.newest ? ['newest'] : []), ...(row.pinned ? ['pinned'] : [])];
  const name = `${row.channel}#${row.sequence}${marks.length === 0 ? '' : ` (${marks.join(', ')})`}`;
  if (row.problem !== null) return `${name}  DAMAGED: ${row.problem}`;
  const age = formatDuration(Math.max(0, Date.now() - Date.parse(row.created ?? '')));
  return [
    name,
    `${row.created}, ${age} ago`,
    ...(row.anchor === null
      ? []
      : [`block ${row.anchor}${row.head === null ? '' : `, none above ${row.head}`}`]),
    `${formatBytes(row.bytes ?? 0)}, ${formatBytes(row.added ?? 0)} new`,
    row.signedBy.length === 0 ? 'UNSIGNED' : `signed by ${row.signedBy.join(', ')}`,
    ...(row.expired ? [`EXPIRED ${row.expires}`] : []),
    ...(row.quarantine === null ? [] : [`QUARANTINED: ${row.quarantine}`]),
  ].join('  ');
}
