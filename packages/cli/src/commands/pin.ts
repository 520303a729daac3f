import { isChannel } from '@presync/format/paths';
import { PresyncError } from '@presync/runtime/errors';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { pinSnapshot, unpinSnapshot } from '@presync/transfer/pins';
import { openRepository } from '@presync/transfer/repository';
import { createStoreClock } from '@presync/transfer/store-clock';
import type { CommandHandler } from '../command.ts';

export const pin: CommandHandler<'pin'> = async ({ config, args, signal }) => {
  const { channel, sequence } = parseSnapshot(args[0] ?? '');
  const access = await readStoreAccess(config);
  const store = await composeStore(config.store, { access, signal });
  try {
    const repository = await openRepository(store, { signal });
    const clock = await createStoreClock(config.store, { access, signal });
    const options = { repository, channel, sequence, clock, signal };
    const changed = config.remove ? await unpinSnapshot(options) : await pinSnapshot(options);
    const name = `${channel}#${sequence}`;
    const pinned = !config.remove;
    return {
      json: { store: store.location, channel, sequence, pinned, changed },
      text: [
        pinned
          ? `${name} ${changed ? 'is pinned' : 'was pinned already'}: retention keeps it.`
          : `${name} ${changed ? 'is pinned no more' : 'was not pinned'}.`,
      ],
    };
  } finally {
    await store.close();
  }
};

function parseSnapshot(text: string): { channel: string; sequence: number } {
  const [, channel = '', sequence] = /^(.+)#([1-9][0-9]{0,14})$/.exec(text) ?? [];
  if (isChannel(channel)) return { channel, sequence: Number(sequence) };
  throw new PresyncError('USAGE', `${JSON.stringify(text)} names no snapshot`, {
    hint: 'write CHANNEL#SEQ as "presync list" does, such as polkadot/paritydb-archive#12',
  });
}
