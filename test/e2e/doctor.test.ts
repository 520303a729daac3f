/** What the doctor says of the gates is what a run would be told. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { needs } from '../support/needs.ts';
import { freePort } from '../support/ports.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, liveChainSpec, startNode, unpackFixture } from '../support/real-node.ts';
import { createSource } from '../support/world.ts';

interface Finding {
  check: string;
  ok: boolean;
  detail: string;
  hint: string | null;
}

/** What the doctor says of each gate, by its id. */
async function gatesOf(
  args: readonly string[],
  expectedCode: number,
): Promise<Map<string, Omit<Finding, 'check'>>> {
  const { code, json, stdout, stderr } = await presync(['doctor', ...args, '--json']);
  assert.equal(code, expectedCode, `${stdout}${stderr}`);
  const { findings } = json as { findings: Finding[] };
  return new Map(
    findings.flatMap(({ check, ...rest }) =>
      check.startsWith('gate ') ? [[check.slice(5), rest] as const] : [],
    ),
  );
}

/** The disk's room changes between two looks. */
const withoutSizes = (text: string): string => text.replaceAll(/[0-9.]+ [KMGT]iB/g, 'some');

const shutOf = (gates: ReadonlyMap<string, { ok: boolean }>): string[] =>
  [...gates].flatMap(([gate, { ok }]) => (ok ? [] : [gate]));

describe('presync doctor', () => {
  it('goes through all gates of a database that no node has open', async (t) => {
    const { base, dir } = await createSource(t);
    const args = ['--base-path', base, '--genesis', DEV_GENESIS, '--state-dir', join(dir, 'state')];
    const open = await gatesOf(args, 0);
    assert.equal(open.size, 11);
    assert.equal(open.get('disk')?.detail, 'open');
    assert.match(open.get('peers')?.detail ?? '', /^not asked: .*--rpc/);

    const quiet = await gatesOf([...args, '--quiet-hours', '00:00-00:00'], 3);
    assert.deepEqual(shutOf(quiet), ['quiet-hours']);
    assert.match(quiet.get('quiet-hours')?.hint ?? '', /--quiet-hours/);

    await writeFile(join(base, 'chains/dev/db/db_version'), '4');
    const { code, stdout } = await presync(['doctor', ...args]);
    assert.equal(code, 3);
    assert.match(stdout, /FAIL {2}gate migration: shut: .*db_version shows.*\n {6}Try: start the node/);
  });

  it(
    'says of a real node what a run would be told, with reason and remedy',
    needs('a node', hasNode()),
    async (t) => {
      const dir = await mkdtemp(join(tmpdir(), 'presync-doctor-'));
      t.after(() => rm(dir, { recursive: true, force: true }));
      const base = join(dir, 'base');
      await unpackFixture('rocksdb', base);
      const chainSpec = await liveChainSpec(dir);
      const node = await startNode({ basePath: base, backend: 'rocksdb', chainSpec, signal: t.signal });
      t.after(() => node.kill());
      const args = [
        ...['--base-path', base, '--rpc', node.rpcUrl, '--pause', 'signal', '--pid', String(node.pid)],
        ...['--state-dir', join(dir, 'state')],
      ];
      const key = join(dir, 'key.pem');
      await presyncOk(['keys', 'new', '--out', key]);
      const dryRun = ['--store', `file://${join(dir, 'store')}`, '--sign-key', key, '--dry-run'];
      // The reasons, in a run's own words.
      const compare = async (more: readonly string[], gates: readonly string[]): Promise<void> => {
        const found = await gatesOf([...args, ...more], gates.length === 0 ? 0 : 3);
        assert.deepEqual(shutOf(found), gates);
        const { code, stderr } = await presync(['snapshot', ...args, ...more, ...dryRun]);
        assert.equal(code, gates.length === 0 ? 0 : 3, stderr);
        for (const gate of gates) {
          const { detail = '', hint } = found.get(gate) ?? {};
          const reason = withoutSizes(detail.replace(/^shut: /, ''));
          assert.ok(withoutSizes(stderr).includes(reason), `${detail}\n${stderr}`);
          assert.ok(hint !== null && hint !== undefined && stderr.includes(hint), `${hint}\n${stderr}`);
        }
      };
      // On a live chain this node is a validator, whose blocks would be missed.
      await compare([], ['validator']);
      await compare(['--allow-validator'], []);
      await compare(
        ['--disk-reserve', '100TiB', '--quiet-hours', '00:00-00:00'],
        ['validator', 'disk', 'quiet-hours'],
      );
      const allowed = await gatesOf([...args, '--allow-validator', '--genesis', DEV_GENESIS], 0);
      assert.equal(allowed.get('chain')?.detail, 'open');
      assert.match(allowed.get('validator')?.detail ?? '', /^not asked: --allow-validator/);

      const elsewhere = `http://127.0.0.1:${await freePort()}`;
      const silent = await gatesOf([...args, '--allow-validator', '--rpc', elsewhere], 8);
      assert.deepEqual(shutOf(silent), ['rpc']);
      assert.match(silent.get('rpc')?.hint ?? '', /start the node/);
      assert.match(silent.get('syncing')?.detail ?? '', /^not asked/);
    },
  );
});
