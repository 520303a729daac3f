/** What the preflight says to whoever restores: by the command, with everything told together. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { assertRefused, STORE_INTERNALS } from '../support/bad-input.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { createWorld } from '../support/world.ts';

interface RestoreWorld {
  dir: string;
  target: string;
  /** A program that is no shell's script. */
  node: string;
  restore(...more: string[]): string[];
  doctor(...more: string[]): string[];
}

async function createRestoreWorld(t: TestContext): Promise<RestoreWorld> {
  const { dir, store, trust } = await createWorld(t);
  const target = join(dir, 'target');
  const node = join(dir, 'polkadot-omni-node');
  await writeFile(node, `#!${process.execPath}\nconsole.log('polkadot-omni-node 1.25.1-abc');\n`);
  await chmod(node, 0o755);
  const common = [
    '--base-path',
    target,
    '--store',
    store,
    '--trust',
    trust,
    '--state-dir',
    join(dir, 'agent'),
  ];
  return {
    dir,
    target,
    node,
    restore: (...more) => ['restore', ...common, ...more],
    doctor: (...more) => ['doctor', ...common, ...more],
  };
}

interface Found {
  check: string;
  verdict: string;
  code: string | null;
  overruled: boolean;
}

/** The findings of a result that is printed with --json. */
function findingsOf(stdout: string): Found[] {
  const { preflight }: { preflight: Found[] } = JSON.parse(stdout);
  return preflight;
}

describe('presync restore', () => {
  it('tells all refusals together, with the flags to change, and writes nothing', async (t) => {
    const { dir, target, node, restore } = await createRestoreWorld(t);
    const other = join(dir, 'other');
    const command = [node, '--chain', 'kusama', '--database', 'paritydb', '--base-path', other];
    const { stderr } = await assertRefused({
      args: restore(
        ...['--disk-reserve', '100TiB', '--owner', '4242:4242'],
        ...['--node-command', JSON.stringify(command)],
      ),
      code: 'TARGET_CHAIN',
      exit: 6,
      names: [
        /^[45] things stand against/,
        '--chain kusama',
        '--database paritydb',
        other,
        'left for the node',
      ],
      unchanged: [dir],
      ignore: STORE_INTERNALS,
    });
    assert.match(stderr, /preflight\.refused/);
    assert.match(stderr, /^Try: .*--database rocksdb in the node command/m);
    assert.ok(!existsSync(target));
  });

  it('shows every check in a dry run, takes the command after --, and keeps the findings in the report', async (t) => {
    const { dir, target, node, restore } = await createRestoreWorld(t);
    const right = ['--', node, '--chain', 'dev', '--base-path', target];
    const { stdout } = await presyncOk([...restore('--dry-run', '--disk-reserve', '0B'), ...right]);
    for (const line of [/^ok {4}backend: .*no --database, which means rocksdb/m, /^ok {4}paths: .*target/m])
      assert.match(stdout, line);
    assert.match(stdout, /would be restored to .*Nothing was done/);
    const report = join(dir, 'report.json');
    await presyncOk([...restore('--report', report, '--disk-reserve', '0B'), ...right]);
    const verdicts = findingsOf(await readFile(report, 'utf8')).map(
      ({ check, verdict }) => `${check} ${verdict}`,
    );
    for (const one of ['backend pass', 'chain pass', 'version pass', 'paths pass', 'room pass'])
      assert.ok(verdicts.includes(one), `${one} is not among ${verdicts.join(', ')}`);
    assert.ok(existsSync(join(target, 'chains/dev/db/full/CURRENT')));
  });

  it('goes on past what is overruled, and says so loudly; what must not be overruled cannot be', async (t) => {
    const { dir, target, node, restore } = await createRestoreWorld(t);
    const elsewhere = ['--', node, '--chain', 'dev', '--base-path', join(dir, 'other')];
    const { code, stderr } = await presync([...restore(), ...elsewhere]);
    assert.equal(code, 6, stderr);
    assert.match(stderr, /^Code: TARGET_PATH/m);
    const overruled = await presyncOk([...restore('--preflight-ignore', 'paths', '--json'), ...elsewhere]);
    assert.match(overruled.stderr, /OVERRULED by --preflight-ignore: .*other/);
    assert.deepEqual(
      findingsOf(overruled.stdout)
        .filter(({ overruled: is }) => is)
        .map(({ check, code: of }) => [check, of]),
      [['paths', 'TARGET_PATH']],
    );
    assert.ok(existsSync(join(target, 'chains/dev/db/full/CURRENT')));
    for (const check of ['genesis', 'backend']) {
      const refused = await presync(restore('--preflight-ignore', check));
      assert.equal(refused.code, 2, check);
      assert.match(refused.stderr, /--preflight-ignore/);
    }
  });

  it('restores beside a stale database of the other backend when the node is told which one to open', async (t) => {
    const { target, node, restore } = await createRestoreWorld(t);
    const stale = join(target, 'chains/dev/paritydb/full');
    await mkdir(stale, { recursive: true });
    await writeFile(join(stale, 'metadata'), 'version=8\n');
    const command = (...more: string[]) => ['--', node, '--chain', 'dev', '--base-path', target, ...more];
    for (const unsure of [[], command(), command('--database', 'auto')]) {
      const { code, stderr } = await presync([...restore(), ...unsure]);
      assert.equal(code, 6, stderr);
      assert.match(stderr, /^Code: TARGET_BACKEND/m);
    }
    const { stderr } = await presyncOk([...restore(), ...command('--database', 'rocksdb')]);
    assert.match(stderr, /leaves alone with --database rocksdb/);
    assert.ok(existsSync(join(target, 'chains/dev/db/full/CURRENT')));
  });
});

describe('presync doctor', () => {
  it('compares a configured node with the snapshot that it would get, and then with its database', async (t) => {
    const { dir, target, node, restore, doctor } = await createRestoreWorld(t);
    const command = (base: string, ...more: string[]) => [
      ...['--node-command', JSON.stringify([node, '--chain', 'dev', '--base-path', base, ...more])],
    ];
    const before = await presync(doctor(...command(target, '--database', 'paritydb')));
    assert.match(
      before.stdout,
      /^FAIL {2}backend: .*--database paritydb.*dev\/rocksdb#1 is a rocksdb database/m,
    );
    await presyncOk(restore());
    const good = await presyncOk(doctor(...command(target)));
    assert.match(good.stdout, /^ok {4}paths: /m);
    assert.match(good.stdout, /^ok {4}backend: .*the database in .*target is rocksdb/m);
    const wrong = await presync(doctor(...command(join(dir, 'other'))));
    assert.equal(wrong.code, 6, wrong.stdout);
    assert.match(wrong.stdout, /^FAIL {2}paths: .*other/m);
    assert.match(wrong.stdout, /^ {6}Try: .*--base-path/m);
  });
});
