// Restores the newest snapshot of the test channel, slowly, so that a test can kill it: restore.ts STORE_DIR BASE_PATH MILLISECONDS_A_READ
import { setTimeout as sleep } from 'node:timers/promises';
import { createFileStore } from '@presync/store/file';
import { openRepository, resolveSnapshot } from '../../src/repository.ts';
import { restoreSnapshot } from '../../src/restore.ts';
import { CHANNEL, NEVER } from '../support.ts';

const [storeDir = '', basePath = '', wait = '0'] = process.argv.slice(2);
const store = createFileStore({ dir: storeDir });
const slow = {
  ...store,
  read: async (...[key, options]: Parameters<typeof store.read>) => {
    const data = await store.read(key, options);
    await sleep(Number(wait));
    return data;
  },
};
const repository = await openRepository(slow, { signal: NEVER });
const snapshot = await resolveSnapshot(repository, {
  channel: CHANNEL,
  snapshot: 'latest',
  trusted: 'anybody',
  signal: NEVER,
});
await restoreSnapshot({
  repository,
  snapshot,
  basePath,
  existing: 'replace',
  concurrency: 2,
  assertFile: () => {},
  onProgress: (bytes) => process.stdout.write(`${bytes}\n`),
  signal: NEVER,
});
