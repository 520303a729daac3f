/** The preflight against the real node: what is refused the node refuses as well, or does not open; what passes it opens. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { type CheckId, preflight } from '@presync/bootstrap/preflight';
import { databasePath, findDatabase, readDatabaseIdentity, scanDatabase } from '@presync/node/layout';
import { needs } from '../support/needs.ts';
import {
  DEV_GENESIS,
  devChainSpec,
  type FixtureBackend,
  hasNode,
  nodeExecutable,
  unpackFixture,
} from '../support/real-node.ts';

const run = promisify(execFile);
const signal = new AbortController().signal;
/** Of a database that was made with `archive`. */
const REFUSED = ['--state-pruning 256', '--state-pruning=archive-canonical', '--pruning 1000'];
const TAKEN = ['--state-pruning archive', '', '--state-pruning archive --blocks-pruning 100'];

const can = needs('a node executable', hasNode());

describe('with the real node', () => {
  let dir: string;
  let executable: string;
  let spec: string;
  let base: string;

  before(async () => {
    if (can.skip !== false) return;
    dir = await mkdtemp(join(tmpdir(), 'presync-preflight-node-'));
    base = join(dir, 'base');
    executable = await nodeExecutable();
    // With its genesis state made once: the node would make it anew for each start.
    await run(executable, ['chain-spec-builder', 'convert-to-raw', await devChainSpec()], { cwd: dir });
    spec = join(dir, 'chain_spec.json');
  });
  after(async () => {
    if (dir !== undefined) await rm(dir, { recursive: true, force: true });
  });

  const argumentsOf = (more: string): string[] =>
    ['--chain', spec, '--dev', '--base-path', base, ...more.split(' ')].filter((arg) => arg !== '');

  /** Exports a block, for which the node opens the database as it does for a run, by the same arguments. */
  async function nodeOpens(more: string, limit?: number): Promise<{ opens: boolean; said: string }> {
    const out = join(dir, 'blocks');
    await rm(out, { force: true });
    const args = ['export-blocks', ...argumentsOf(more), '--from', '1000', '--to', '1000', out];
    const shell = `${limit === undefined ? '' : `ulimit -n ${limit}; `}exec "$0" "$@"`;
    try {
      const { stderr } = await run('sh', ['-c', shell, executable, ...args]);
      return { opens: true, said: stderr };
    } catch (error) {
      return { opens: false, said: error instanceof Error ? error.message : '' };
    }
  }

  /** What the preflight of a snapshot of this database says, other than that something passes. */
  async function against(backend: FixtureBackend, more: string, limit?: number): Promise<string[]> {
    const layout = await findDatabase({ basePath: base, chainId: 'dev', backend, signal });
    const files = await scanDatabase(layout, { signal });
    const { version } = await readDatabaseIdentity(layout, { signal });
    const args = argumentsOf(more);
    const container = ['docker', 'run', `--ulimit=nofile=${limit}`, '-v', `${dir}:${dir}`, 'image'];
    const found = await preflight({
      node: { command: limit === undefined ? [executable, ...args] : [...container, ...args] },
      ignore: [],
      reserve: 0,
      basePath: base,
      existing: 'replace',
      restores: true,
      subject: {
        name: 'snapshot dev/test#1',
        specId: 'dev',
        genesisHash: DEV_GENESIS,
        statePruning: 'archive',
        blocksPruning: 'archive',
        files: files.length,
        parts: [
          {
            role: 'main',
            backend,
            basePath: base,
            path: databasePath('dev', backend),
            databaseVersion: version,
          },
        ],
      },
      signal,
    });
    // The disk and the limits of the machine that the test runs on.
    const others: readonly CheckId[] = limit === undefined ? ['disk', 'files'] : ['disk'];
    return found
      .filter(({ check, verdict }) => verdict !== 'pass' && !others.includes(check))
      .map(({ check, verdict, code }) => [check, verdict, ...(code === null ? [] : [code])].join(' '));
  }

  async function fresh(backend: FixtureBackend): Promise<void> {
    await rm(base, { recursive: true, force: true });
    await unpackFixture(backend, base);
  }

  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(`of another pruning mode, in ${backend}`, can, async () => {
      const database = `--database ${backend}`;
      // One of each is enough for the second backend: the mode is compared above it.
      const [refused, taken] = [REFUSED, TAKEN].map((modes) =>
        backend === 'rocksdb' ? modes : modes.slice(0, 1),
      );
      for (const mode of refused ?? []) {
        await fresh(backend);
        assert.deepEqual(await against(backend, `${database} ${mode}`), ['pruning refusal TARGET_PRUNING']);
        const { opens, said } = await nodeOpens(`${database} ${mode}`);
        assert.equal(opens, false, mode);
        assert.match(said, /Incompatible pruning modes \[stored: ArchiveAll/);
      }
      for (const mode of taken ?? []) {
        await fresh(backend);
        const expected = mode.includes('blocks') ? ['pruning warning'] : [];
        assert.deepEqual(await against(backend, `${database} ${mode}`), expected);
        const { opens, said } = await nodeOpens(`${database} ${mode}`);
        assert.ok(opens, said);
      }
    });
  }

  it('of another backend: without the flag, the node makes a RocksDB beside the ParityDB', can, async () => {
    await fresh('paritydb');
    assert.deepEqual(await against('paritydb', ''), ['backend refusal TARGET_BACKEND']);
    await nodeOpens('');
    assert.ok(existsSync(join(base, databasePath('dev', 'rocksdb'), 'CURRENT')));
    // What it has left there is what "auto" opens from then on.
    assert.deepEqual(await against('paritydb', '--database auto'), ['sibling refusal TARGET_BACKEND']);
    assert.deepEqual(await against('paritydb', '--database paritydb'), ['sibling warning']);
  });

  it('of no certain backend: the node opens what was restored', can, async () => {
    for (const backend of ['paritydb', 'rocksdb'] as const) {
      await fresh(backend);
      assert.deepEqual(await against(backend, '--db Auto'), []);
      const { opens, said } = await nodeOpens('--db Auto');
      assert.ok(opens, said);
      const other = databasePath('dev', backend === 'rocksdb' ? 'paritydb' : 'rocksdb');
      for (const seal of ['CURRENT', 'metadata']) assert.ok(!existsSync(join(base, other, seal)), other);
    }
  });

  it('of a later version of the database', can, async () => {
    await fresh('rocksdb');
    await writeFile(join(base, databasePath('dev', 'rocksdb'), 'db_version'), '5');
    assert.deepEqual(await against('rocksdb', ''), ['version refusal TARGET_VERSION']);
    const { opens, said } = await nodeOpens('');
    assert.equal(opens, false);
    assert.match(said, /future version of the client: 5/);
    // Of ParityDB's version the node takes any later one.
    await fresh('paritydb');
    const metadata = join(base, databasePath('dev', 'paritydb'), 'metadata');
    await writeFile(metadata, (await readFile(metadata, 'utf8')).replace(/^version=.*/m, 'version=99'));
    assert.deepEqual(await against('paritydb', '--database paritydb'), []);
    assert.ok((await nodeOpens('--database paritydb')).opens);
  });

  it('of too few open files', can, async () => {
    await fresh('paritydb');
    assert.deepEqual(await against('paritydb', '--database paritydb', 64), ['files refusal TARGET_LIMITS']);
    const { opens, said } = await nodeOpens('--database paritydb', 64);
    assert.equal(opens, false);
    assert.match(said, /Too many open files/);
    assert.deepEqual(await against('paritydb', '--database paritydb', 128), ['files warning']);
    assert.ok((await nodeOpens('--database paritydb', 128)).opens);
  });
});
