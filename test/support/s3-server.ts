import { execFile, type SpawnOptions, spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Host, untilListening } from './network.ts';
import { freePort, stopChild, waitForPort } from './ports.ts';
import { findTool } from './tools.ts';

const BINARY = 'versitygw';
const ACCESS = 'presync-test-access';
const SECRET = 'presync-test-secret';

/** The versitygw executable: `PRESYNC_VERSITYGW`, the PATH, or the repository's `.cache/tools`. Undefined without one. */
export function findS3Server(): string | undefined {
  return findTool(BINARY, 'PRESYNC_VERSITYGW');
}

export interface S3ServerOptions {
  bucket?: string | undefined;
  /** The only region whose signatures are taken. */
  region?: string | undefined;
  /** A domain below which the buckets have host names of their own. */
  domain?: string | undefined;
  /** Accounts besides the root's, which may do what the bucket's policy says; `accountEnv` gives their credentials. */
  accounts?: readonly string[] | undefined;
  /** Where it stands, when not here: it listens on that host's own address. */
  host?: Host | undefined;
}

export interface S3Server {
  /** Of the server, without a bucket: `http://127.0.0.1:PORT`. */
  endpoint: string;
  bucket: string;
  /** A store URL with an empty prefix; a prefix goes between the bucket and the `?`. */
  url: string;
  /** What a process needs in its environment to use the server. */
  env: Record<string, string>;
  /** Where the server keeps its buckets as folders. */
  dir: string;
  stop(): Promise<void>;
}

/** Where a server listens that has a host for itself. */
const HOST_PORT = 7070;

/** Starts versitygw on a free port of 127.0.0.1, or on a host of its own, on a temporary folder, with one empty bucket. */
export async function startS3Server(options: S3ServerOptions = {}): Promise<S3Server> {
  const binary = findS3Server();
  if (binary === undefined) throw new Error(`${BINARY} is not to be found`);
  const bucket = options.bucket ?? 'presync-test';
  const root = await mkdtemp(join(tmpdir(), 'presync-s3-'));
  const dir = join(root, 'buckets');
  await mkdir(join(dir, bucket), { recursive: true });
  const { region = 'us-east-1', domain, host } = options;
  const port = host === undefined ? await freePort() : HOST_PORT;
  const address = `${host?.address ?? '127.0.0.1'}:${port}`;
  const identities = await writeAccounts(root, options.accounts);
  const args = [
    ...['--port', address, '--quiet', '--keep-alive', '--region', region],
    ...identities,
    ...(domain === undefined ? [] : ['--virtual-domain', domain]),
  ];
  const command = [binary, ...args, 'posix', dir] as const;
  const settings: SpawnOptions = {
    env: { PATH: process.env.PATH ?? '', HOME: root, ROOT_ACCESS_KEY: ACCESS, ROOT_SECRET_KEY: SECRET },
    stdio: ['ignore', 'ignore', 'pipe'],
  };
  const child =
    host === undefined ? spawn(command[0], command.slice(1), settings) : host.spawn(command, settings);
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(root, { recursive: true, force: true });
  };
  try {
    if (host === undefined) await waitForPort(child, port, BINARY);
    else await untilListening(host, port, child, BINARY);
  } catch (error) {
    await stop();
    throw error;
  }
  const endpoint = `http://${address}`;
  return {
    endpoint,
    bucket,
    url: `s3://${bucket}?region=${region}&endpoint=${encodeURIComponent(endpoint)}&pathStyle=1`,
    env: { AWS_ACCESS_KEY_ID: ACCESS, AWS_SECRET_ACCESS_KEY: SECRET, AWS_EC2_METADATA_DISABLED: 'true' },
    dir,
    stop,
  };
}

/** What a process needs in its environment to use the server as one of its accounts. */
export function accountEnv(account: string): Record<string, string> {
  return {
    AWS_ACCESS_KEY_ID: account,
    AWS_SECRET_ACCESS_KEY: `${SECRET}-${account}`,
    AWS_EC2_METADATA_DISABLED: 'true',
  };
}

/** Gives the flags with which versitygw reads the accounts. */
async function writeAccounts(root: string, accounts: readonly string[] | undefined): Promise<string[]> {
  if (accounts === undefined) return [];
  const dir = join(root, 'accounts');
  await mkdir(dir);
  const accessAccounts = Object.fromEntries(
    accounts.map((access) => [
      access,
      { access, secret: accountEnv(access).AWS_SECRET_ACCESS_KEY, role: 'user', userID: 0, groupID: 0 },
    ]),
  );
  await writeFile(join(dir, 'users.json'), JSON.stringify({ accessAccounts }));
  return ['--iam-dir', dir];
}

/** What one account, or everybody (`*`), may do with a bucket and its objects. */
export interface PolicyStatement {
  principal: string;
  actions: readonly string[];
}

/** Gives the bucket a policy, as the root account. */
export async function putBucketPolicy(
  { endpoint, bucket, env }: S3Server,
  statements: readonly PolicyStatement[],
): Promise<void> {
  const policy = {
    Version: '2012-10-17',
    Statement: statements.map(({ principal, actions }) => ({
      Effect: 'Allow',
      Principal: principal === '*' ? '*' : [principal],
      Action: actions,
      Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
    })),
  };
  const user = `${env.AWS_ACCESS_KEY_ID}:${env.AWS_SECRET_ACCESS_KEY}`;
  await promisify(execFile)('curl', [
    ...['-sSf', '--aws-sigv4', 'aws:amz:us-east-1:s3', '--user', user],
    ...['-H', 'x-amz-content-sha256: UNSIGNED-PAYLOAD', '-X', 'PUT'],
    ...['--data-binary', JSON.stringify(policy), `${endpoint}/${bucket}?policy=`],
  ]);
}
