import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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

/** Starts versitygw on a free port of 127.0.0.1, on a temporary folder, with one empty bucket. */
export async function startS3Server(options: S3ServerOptions = {}): Promise<S3Server> {
  const binary = findS3Server();
  if (binary === undefined) throw new Error(`${BINARY} is not to be found`);
  const bucket = options.bucket ?? 'presync-test';
  const root = await mkdtemp(join(tmpdir(), 'presync-s3-'));
  const dir = join(root, 'buckets');
  await mkdir(join(dir, bucket), { recursive: true });
  const port = await freePort();
  const { region = 'us-east-1', domain } = options;
  const args = ['--port', `127.0.0.1:${port}`, '--quiet', '--keep-alive', '--region', region];
  if (domain !== undefined) args.push('--virtual-domain', domain);
  const child = spawn(binary, [...args, 'posix', dir], {
    env: { PATH: process.env.PATH ?? '', HOME: root, ROOT_ACCESS_KEY: ACCESS, ROOT_SECRET_KEY: SECRET },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(root, { recursive: true, force: true });
  };
  try {
    await waitForPort(child, port, BINARY);
  } catch (error) {
    await stop();
    throw error;
  }
  const endpoint = `http://127.0.0.1:${port}`;
  return {
    endpoint,
    bucket,
    url: `s3://${bucket}?region=${region}&endpoint=${encodeURIComponent(endpoint)}&pathStyle=1`,
    env: { AWS_ACCESS_KEY_ID: ACCESS, AWS_SECRET_ACCESS_KEY: SECRET, AWS_EC2_METADATA_DISABLED: 'true' },
    dir,
    stop,
  };
}
