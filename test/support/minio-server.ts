import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, stopChild, waitForPort } from './ports.ts';
import type { S3Server } from './s3-server.ts';
import { findTool } from './tools.ts';

const BINARY = 'minio';
const ACCESS = 'presync-test-access';
const SECRET = 'presync-test-secret';

/** The name of the one key that the server can encrypt with. */
export const MINIO_KEY = 'presync-test-key';

/** The MinIO executable: `PRESYNC_MINIO`, the PATH, or the repository's `.cache/tools`. Undefined without one. */
export function findMinio(): string | undefined {
  return findTool(BINARY, 'PRESYNC_MINIO');
}

export interface MinioOptions {
  bucket?: string | undefined;
  /** The only region whose signatures are taken. Default: any. */
  region?: string | undefined;
  /** A domain below which the buckets have host names of their own. */
  domain?: string | undefined;
  /** False for a server that cannot encrypt. */
  kms?: boolean | undefined;
}

/** Starts MinIO on a free port of 127.0.0.1, on a temporary folder, with one empty bucket. */
export async function startMinio(options: MinioOptions = {}): Promise<S3Server> {
  const binary = findMinio();
  if (binary === undefined) throw new Error(`${BINARY} is not to be found`);
  const { bucket = 'presync-test', region, domain, kms = true } = options;
  const root = await mkdtemp(join(tmpdir(), 'presync-minio-'));
  const dir = join(root, 'buckets');
  await mkdir(join(dir, bucket), { recursive: true });
  const port = await freePort();
  const child = spawn(binary, ['server', '--quiet', '--address', `127.0.0.1:${port}`, dir], {
    env: {
      PATH: process.env.PATH ?? '',
      HOME: root,
      MINIO_ROOT_USER: ACCESS,
      MINIO_ROOT_PASSWORD: SECRET,
      MINIO_BROWSER: 'off',
      MINIO_UPDATE: 'off',
      // Without it, a folder on the disk of the system is refused.
      MINIO_CI_CD: '1',
      ...(region === undefined ? {} : { MINIO_SITE_REGION: region }),
      ...(domain === undefined ? {} : { MINIO_DOMAIN: domain }),
      ...(kms ? { MINIO_KMS_SECRET_KEY: `${MINIO_KEY}:${randomBytes(32).toString('base64')}` } : {}),
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(root, { recursive: true, force: true });
  };
  const endpoint = `http://127.0.0.1:${port}`;
  try {
    await waitForPort(child, port, BINARY);
    await ready(endpoint);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    endpoint,
    bucket,
    url: `s3://${bucket}?region=${region ?? 'us-east-1'}&endpoint=${encodeURIComponent(endpoint)}&pathStyle=1`,
    env: { AWS_ACCESS_KEY_ID: ACCESS, AWS_SECRET_ACCESS_KEY: SECRET, AWS_EC2_METADATA_DISABLED: 'true' },
    dir,
    stop,
  };
}

/** It listens before it has its disk and its users. */
async function ready(endpoint: string): Promise<void> {
  for (const until = Date.now() + 60_000; ; ) {
    const answer = await fetch(`${endpoint}/minio/health/cluster`);
    await answer.body?.cancel();
    if (answer.ok) return;
    if (Date.now() > until) throw new Error(`${BINARY} was not ready within 60 s: ${answer.status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
