import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { freePort, stopChild } from './ports.ts';
import { findTool } from './tools.ts';

const BINARY = 'fake-gcs-server';
const START_MS = 60_000;

/** The fake-gcs-server executable: `PRESYNC_FAKE_GCS_SERVER`, the PATH, or the repository's `.cache/tools`. Undefined without one. */
export function findGcsServer(): string | undefined {
  return findTool(BINARY, 'PRESYNC_FAKE_GCS_SERVER');
}

export interface GcsServer {
  /** Of the server, without a bucket: `http://127.0.0.1:PORT`. It wants no credentials. */
  endpoint: string;
  bucket: string;
  /** A store URL with an empty prefix; a prefix goes between the bucket and the `?`. */
  url: string;
  stop(): Promise<void>;
}

/** Starts fake-gcs-server on a free port of 127.0.0.1, with one empty bucket. It keeps objects in memory. */
export async function startGcsServer(options: { bucket?: string | undefined } = {}): Promise<GcsServer> {
  const binary = findGcsServer();
  if (binary === undefined) throw new Error(`${BINARY} is not to be found`);
  const bucket = options.bucket ?? 'presync-test';
  const port = await freePort();
  const host = ['-host', '127.0.0.1', '-port', `${port}`, '-public-host', `127.0.0.1:${port}`];
  const child = spawn(binary, ['-scheme', 'http', '-backend', 'memory', '-log-level', 'error', ...host], {
    env: { PATH: process.env.PATH ?? '' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said = (said + text.toString()).slice(-4000);
  });
  const endpoint = `http://127.0.0.1:${port}`;
  try {
    await answering(child, `${endpoint}/_internal/healthcheck`, () => said);
    const made = await fetch(`${endpoint}/storage/v1/b?project=test`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name: bucket }),
    });
    if (!made.ok) throw new Error(`${BINARY} made no bucket: ${made.status} ${await made.text()}`);
  } catch (error) {
    await stopChild(child);
    throw error;
  }
  return {
    endpoint,
    bucket,
    url: `gs://${bucket}?endpoint=${encodeURIComponent(endpoint)}`,
    stop: () => stopChild(child),
  };
}

async function answering(child: ChildProcess, url: string, said: () => string): Promise<void> {
  for (const until = Date.now() + START_MS; Date.now() < until; ) {
    if (child.exitCode !== null) throw new Error(`${BINARY} ended with ${child.exitCode}: ${said()}`);
    const answer = await fetch(url).catch(() => undefined);
    if (answer?.ok) return;
    await delay(50);
  }
  throw new Error(`${BINARY} did not answer within ${START_MS / 1000} s: ${said()}`);
}
