import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, stopChild, waitForPort } from './ports.ts';
import { findTool } from './tools.ts';

const BINARY = 'ec2-metadata-mock';

/** The instance that AWS's mock is, by its own defaults. */
export const MOCK_INSTANCE = { id: 'i-1234567890abcdef0', region: 'us-east-1', zone: 'us-east-1f' };

/** AWS's mock of EC2's metadata: `PRESYNC_EC2_METADATA_MOCK`, the PATH, or the repository's `.cache/tools`. Undefined without it. */
export function findEc2MetadataMock(): string | undefined {
  return findTool(BINARY, 'PRESYNC_EC2_METADATA_MOCK');
}

export interface Ec2MetadataMock {
  /** `http://127.0.0.1:PORT` */
  base: string;
  /** Starts it again at the same address: it knows no token that it gave before. */
  start(args: readonly string[]): Promise<void>;
  /** It may be started again. */
  stop(): Promise<void>;
}

/** Starts the mock on a free port of 127.0.0.1, with sessions (version 2) only. `args`: a command and flags of its own, as `['spot', '-d', '2']`. */
export async function startEc2MetadataMock(args: readonly string[]): Promise<Ec2MetadataMock> {
  const binary = findEc2MetadataMock();
  if (binary === undefined) throw new Error(`${BINARY} is not to be found`);
  const port = await freePort();
  let child: ChildProcess | undefined;
  let home: string | undefined;
  const mock: Ec2MetadataMock = {
    base: `http://127.0.0.1:${port}`,
    async start(again) {
      home = await mkdtemp(join(tmpdir(), 'presync-aemm-'));
      child = spawn(binary, [...again, '--imdsv2', '--hostname', '127.0.0.1', '--port', String(port)], {
        env: { PATH: process.env.PATH ?? '', HOME: home },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      await waitForPort(child, port, BINARY);
    },
    async stop() {
      if (child !== undefined) await stopChild(child);
      if (home !== undefined) await rm(home, { recursive: true, force: true });
    },
  };
  try {
    await mock.start(args);
  } catch (error) {
    await mock.stop();
    throw error;
  }
  return mock;
}
