/** Stores for `presync store check`: each kind on a real server, whole and with each permission missing in turn. */
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateKey } from '@presync/format/signature';
import { createFileStore } from '@presync/store/file';
import { containerSas } from './azure-sas.ts';
import { findAzureServer, startAzureServer } from './azure-server.ts';
import { startPeer } from './conformance-subjects.ts';
import { FORGED_CHANNEL, forgeSnapshot } from './forge.ts';
import { type GcsPermission, startForbiddingProxy } from './gcs-forbidding.ts';
import { findGcsServer, startGcsServer } from './gcs-server.ts';
import { findNginx, startNginx, staticSite } from './nginx.ts';
import { accountEnv, findS3Server, putBucketPolicy, startS3Server } from './s3-server.ts';

export interface CheckScene {
  name: string;
  /** After `store check`. */
  args: readonly string[];
  env?: Record<string, string> | undefined;
  /** Whom presync runs as. */
  user?: number | undefined;
  exit: number;
  /** Names of the permissions that must be told as missing; none for a store that is all right. */
  missing: readonly string[];
}

export interface CheckScenes {
  /** The kind of store. */
  kind: string;
  needs: { what: string; found: boolean };
  open(atEnd: (cleanUp: () => Promise<unknown>) => void): Promise<CheckScene[]>;
}

const NOBODY = 65_534;
const IS_ROOT = process.getuid?.() === 0;

/** Options of a check that tries everything, and measures the speed for a moment only. */
export const WHOLE_CHECK = ['--speed-time', '1s', '--database-size', '1TB'];

export const CHECK_SCENES: readonly CheckScenes[] = [
  {
    kind: 'file',
    needs: { what: 'root, to run presync as somebody else', found: IS_ROOT },
    open: fileScenes,
  },
  { kind: 's3', needs: { what: 'versitygw', found: findS3Server() !== undefined }, open: s3Scenes },
  { kind: 'azure', needs: { what: 'azurite', found: findAzureServer() !== undefined }, open: azureScenes },
  { kind: 'gcs', needs: { what: 'fake-gcs-server', found: findGcsServer() !== undefined }, open: gcsScenes },
  { kind: 'http', needs: { what: 'nginx', found: findNginx() !== undefined }, open: httpScenes },
  { kind: 'peer', needs: { what: '', found: true }, open: peerScenes },
];

type AtEnd = Parameters<CheckScenes['open']>[0];

async function scratch(atEnd: AtEnd): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-check-scene-'));
  atEnd(() => rm(dir, { recursive: true, force: true }));
  // For presync as somebody else.
  await chmod(dir, 0o755);
  return dir;
}

async function makeRepository(storeDir: string): Promise<void> {
  await forgeSnapshot({ storeDir, keys: [generateKey()] });
}

async function fileScenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const dir = await scratch(atEnd);
  const at = (name: string): string => join(dir, name);
  const url = (name: string): string => `file://${at(name)}`;
  await mkdir(at('own'));
  await chown(at('own'), NOBODY, NOBODY);
  await mkdir(at('read-only'), { mode: 0o755 });
  await makeRepository(at('unlisted'));
  await chmod(join(at('unlisted'), 'channels'), 0o711);
  await makeRepository(at('unreadable'));
  await chmod(join(at('unreadable'), 'presync.json'), 0o600);
  const user = NOBODY;
  return [
    { name: 'all is allowed', args: ['--store', url('own'), ...WHOLE_CHECK], user, exit: 0, missing: [] },
    {
      name: 'the folder may not be written',
      args: ['--store', url('read-only')],
      user,
      exit: 7,
      missing: ['w and x on the folders'],
    },
    {
      name: 'the channels may not be listed',
      args: ['--store', url('unlisted'), '--as', 'reader'],
      user,
      exit: 7,
      missing: ['r and x on the folders'],
    },
    {
      name: 'the files may not be read',
      args: ['--store', url('unreadable'), '--as', 'reader'],
      user,
      exit: 7,
      missing: ['r on the files and x on the folders'],
    },
    {
      name: 'no such folder',
      args: ['--store', url('none/at/all')],
      user,
      exit: 5,
      missing: [],
    },
  ];
}

const S3_ACTIONS = ['s3:GetObject', 's3:PutObject', 's3:DeleteObject', 's3:ListBucket'];

async function s3Scenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const accounts = ['everything', 'nothing', 'reads', ...S3_ACTIONS.map(accountWithout)];
  const server = await startS3Server({ accounts });
  atEnd(() => server.stop());
  await putBucketPolicy(server, [
    { principal: 'everything', actions: S3_ACTIONS },
    { principal: 'reads', actions: ['s3:GetObject', 's3:ListBucket'] },
    ...S3_ACTIONS.map((left) => ({
      principal: accountWithout(left),
      actions: S3_ACTIONS.filter((action) => action !== left),
    })),
  ]);
  const store = server.url.replace('?', '/some/prefix?');
  const scene = (
    name: string,
    account: string,
    args: string[],
    exit: number,
    missing: string[],
  ): CheckScene => ({
    name,
    args: ['--store', store, ...args],
    env: accountEnv(account),
    exit,
    missing,
  });
  return [
    scene('all is allowed', 'everything', WHOLE_CHECK, 0, []),
    ...S3_ACTIONS.map((action) => scene(`${action} is missing`, accountWithout(action), [], 7, [action])),
    scene('only reading is allowed', 'reads', [], 7, ['s3:PutObject', 's3:DeleteObject']),
    scene('nothing is allowed', 'nothing', [], 7, ['s3:PutObject', 's3:DeleteObject', 's3:ListBucket']),
    {
      name: 'no such bucket',
      args: ['--store', server.url.replace(server.bucket, 'no-such-bucket')],
      env: server.env,
      exit: 5,
      missing: [],
    },
  ];
}

function accountWithout(action: string): string {
  return `without-${action.slice('s3:'.length)}`;
}

const BLOBS = 'Microsoft.Storage/storageAccounts/blobServices/containers/blobs';

async function azureScenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const server = await startAzureServer();
  atEnd(() => server.stop());
  const store = server.url.replace('?', '/some/prefix?');
  const withSas = (name: string, letters: string, missing: string[]): CheckScene => ({
    name,
    args: ['--store', store],
    env: { AZURE_STORAGE_SAS_TOKEN: containerSas(server, letters) },
    exit: 7,
    missing,
  });
  return [
    {
      name: 'all is allowed',
      args: ['--store', store, ...WHOLE_CHECK],
      env: server.env,
      exit: 0,
      missing: [],
    },
    withSas('r is missing', 'cwdl', ['SAS permission r', `${BLOBS}/read`]),
    withSas('c and w are missing', 'rdl', ['SAS permission w', `${BLOBS}/write`]),
    withSas('w is missing, c is not', 'rcdl', ['SAS permission w', `${BLOBS}/write`]),
    withSas('d is missing', 'rcwl', ['SAS permission d', `${BLOBS}/delete`]),
    withSas('l is missing', 'rcwd', ['SAS permission l', `${BLOBS}/read`]),
    {
      name: 'no such container',
      args: ['--store', server.url.replace(server.container, 'no-such-container')],
      env: server.env,
      exit: 5,
      missing: [],
    },
  ];
}

async function gcsScenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const server = await startGcsServer();
  atEnd(() => server.stop());
  const without = async (permission: GcsPermission): Promise<CheckScene> => {
    const proxy = await startForbiddingProxy(server, [permission]);
    atEnd(() => proxy.stop());
    return {
      name: `${permission} is missing`,
      args: ['--store', proxy.url.replace('?', `/without-${permission}?`)],
      exit: 7,
      missing: [permission],
    };
  };
  return [
    {
      name: 'all is allowed',
      args: ['--store', server.url.replace('?', '/some/prefix?'), ...WHOLE_CHECK],
      exit: 0,
      missing: [],
    },
    await without('storage.objects.get'),
    await without('storage.objects.create'),
    await without('storage.objects.delete'),
    await without('storage.objects.list'),
    {
      name: 'no such bucket',
      args: ['--store', server.url.replace(server.bucket, 'no-such-bucket')],
      exit: 5,
      missing: [],
    },
  ];
}

async function httpScenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const dir = await scratch(atEnd);
  await makeRepository(join(dir, 'store'));
  const open = await startNginx((port) => staticSite(port, dir));
  atEnd(() => open.stop());
  // Every user is unknown, so every credential is wrong.
  const users = join(dir, 'users');
  await writeFile(users, '');
  const shut = await startNginx(
    (port) =>
      `  server { listen 127.0.0.1:${port}; root ${dir}; auth_basic "presync"; auth_basic_user_file ${users}; }`,
  );
  atEnd(() => shut.stop());
  return [
    {
      name: 'all is allowed',
      args: ['--store', `${open.url}/store`, '--channel', FORGED_CHANNEL, ...WHOLE_CHECK],
      exit: 0,
      missing: [],
    },
    { name: 'a password is wanted', args: ['--store', `${shut.url}/store`], exit: 7, missing: ['GET'] },
    { name: 'nothing is there', args: ['--store', `${open.url}/nothing`], exit: 5, missing: [] },
  ];
}

async function peerScenes(atEnd: AtEnd): Promise<CheckScene[]> {
  const dir = await scratch(atEnd);
  await makeRepository(join(dir, 'store'));
  const store = createFileStore({ dir: join(dir, 'store') });
  const open = await startPeer(store);
  atEnd(() => open.stop());
  const token = join(dir, 'token');
  await writeFile(token, 'a long random text');
  const shut = await startPeer(store, token);
  atEnd(() => shut.stop());
  return [
    { name: 'all is allowed', args: ['--store', open.url, ...WHOLE_CHECK], exit: 0, missing: [] },
    {
      name: 'a token is wanted',
      args: ['--store', shut.url],
      exit: 7,
      missing: ['GET', 'GET of the listing'],
    },
  ];
}
