/** A restore against which nothing stands, for tests of what can. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { judgeClockSkew } from '@presync/store/server-time';
import { type Finding, type PreflightOptions, preflight } from '../../src/preflight.ts';

const POLKADOT = '0x91b171bb158e2d3848fa23a9f1c25182fb8e20313b2c1eb49219da7a70ce90c3';
export const OTHER = `0x${'77'.repeat(32)}`;

export const PART = {
  role: 'main',
  backend: 'paritydb',
  path: 'chains/polkadot/paritydb/full',
  databaseVersion: '8',
} as const;
export const ROCKSDB = {
  ...PART,
  backend: 'rocksdb',
  path: 'chains/polkadot/db/full',
  databaseVersion: '4',
} as const;

export interface Changes {
  subject?: Partial<PreflightOptions['subject']>;
  /** In place of the node's arguments, `BASE` standing for its base path. */
  args?: string;
  options?: Partial<PreflightOptions>;
}

export interface PreflightScene {
  dir: string;
  /** The node's base path; not there at first. */
  base: string;
  /** A program that is no shell's script, and tells that version. */
  executable(name: string, answer: string): Promise<string>;
  options(changes?: Changes): PreflightOptions;
  /** What does not pass. */
  against(changes: Changes): Promise<Finding[]>;
  /** Removes what the test has left below the base path. */
  clear(): Promise<void>;
  end(): Promise<void>;
}

/** `check verdict code`, of each finding. */
export const summary = (findings: readonly Finding[]): string[] =>
  findings.map(({ check, verdict, code }) => [check, verdict, ...(code === null ? [] : [code])].join(' '));

export async function createPreflightScene(): Promise<PreflightScene> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-preflight-'));
  // Other users are to reach what is in it.
  await chmod(dir, 0o755);
  const base = join(dir, 'base');
  const executable = async (name: string, answer: string): Promise<string> => {
    const path = join(dir, name);
    await writeFile(path, `#!${process.execPath}\nconsole.log(${JSON.stringify(answer)});\n`);
    await chmod(path, 0o755);
    return path;
  };
  const polkadot = await executable('polkadot', 'polkadot 1.25.1-0123456789a');
  const options = ({ subject, args, options: more }: Changes = {}): PreflightOptions => {
    const line = args ?? '--base-path BASE --chain polkadot --database paritydb --state-pruning archive';
    return {
      node: { command: [polkadot, ...line.replaceAll('BASE', base).split(' ')] },
      ignore: [],
      reserve: 1000,
      basePath: base,
      existing: 'refuse',
      restores: true,
      measureClock: async () => judgeClockSkew(10, 1000),
      subject: {
        name: 'snapshot polkadot/test#7',
        specId: 'polkadot',
        genesisHash: POLKADOT,
        implementation: 'Parity Polkadot',
        version: '1.25.0-fedcba98765',
        statePruning: 'archive',
        blocksPruning: 'archive',
        bytes: 1_000_000,
        files: 80,
        parts: [{ ...PART, basePath: base }],
        ...subject,
      },
      signal: new AbortController().signal,
      ...more,
    };
  };
  return {
    dir,
    base,
    executable,
    options,
    async against(changes) {
      const findings = await preflight(options(changes));
      return findings.filter(({ verdict }) => verdict !== 'pass');
    },
    clear: () => rm(base, { recursive: true, force: true }),
    end: () => rm(dir, { recursive: true, force: true }),
  };
}
