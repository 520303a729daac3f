import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { OPTIONS } from '@presync/runtime/options';
import { judgeClockSkew } from '@presync/store/server-time';
import { CHECKS, type Finding, heed, PreflightError, preflight } from '../src/preflight.ts';
import {
  type Changes,
  createPreflightScene,
  OTHER,
  type PreflightScene,
  ROCKSDB,
  summary,
} from './support/preflight-scene.ts';

let scene: PreflightScene;
let base: string;
before(async () => {
  scene = await createPreflightScene();
  ({ base } = scene);
});
afterEach(() => scene.clear());
after(() => scene.end());

describe('a preflight', () => {
  it('passes where nothing stands against the restore, and says of each check what it saw', async () => {
    const findings = await preflight(scene.options());
    assert.deepEqual(summary(findings.filter(({ verdict }) => verdict === 'refusal')), []);
    const checks = new Set(findings.map(({ check }) => check));
    const silent = Object.keys(CHECKS).filter((check) => !checks.has(check as Finding['check']));
    // There is nothing to say of what is not there.
    assert.deepEqual(silent, ['sibling', 'layout']);
  });

  const arguments_ = '--base-path BASE --chain polkadot --database paritydb';
  const rocksdb = () => ({ parts: [{ ...ROCKSDB, basePath: base }] });
  /** What is changed, what it comes to, and what must be named in message and hint. */
  const cases: [string, () => Changes, string, RegExp[]][] = [
    [
      'the node is told no --database',
      () => ({ args: '--base-path BASE --chain polkadot' }),
      'backend refusal TARGET_BACKEND',
      [/no --database, which means rocksdb/, /--database paritydb in the node command/],
    ],
    [
      'the node is told the other --database',
      () => ({ args: '-d BASE --chain=polkadot --db=RocksDb' }),
      'backend refusal TARGET_BACKEND',
      [/--database RocksDb/, /paritydb/],
    ],
    ['the node opens what it finds', () => ({ args: '-d BASE --chain polkadot --database auto' }), '', []],
    [
      'the node opens RocksDB, and it is RocksDB',
      () => ({ args: '-d BASE --chain polkadot', subject: rocksdb() }),
      '',
      [],
    ],
    [
      '--database is a word that no node knows',
      () => ({ args: '-d BASE --chain polkadot --database sled' }),
      'backend warning',
      [/sled/],
    ],
    [
      'a number in place of archive',
      () => ({ args: `${arguments_} --state-pruning 256` }),
      'pruning refusal TARGET_PRUNING',
      [/--state-pruning 256/, /made with archive/, /--state-pruning archive in the node command/],
    ],
    [
      'archive-canonical in place of archive',
      () => ({ args: `${arguments_} --pruning=archive-canonical` }),
      'pruning refusal TARGET_PRUNING',
      [/archive-canonical/],
    ],
    [
      'archive in place of a number',
      () => ({ args: `${arguments_} --state-pruning archive`, subject: { statePruning: '256' } }),
      'pruning refusal TARGET_PRUNING',
      [/256/],
    ],
    ['no pruning is asked for', () => ({ args: arguments_ }), '', []],
    [
      'a lower number of blocks',
      () => ({ args: `${arguments_} --state-pruning 100`, subject: { statePruning: '256' } }),
      '',
      [],
    ],
    [
      'a higher number of blocks',
      () => ({ args: `${arguments_} --state-pruning 1000`, subject: { statePruning: '256' } }),
      'pruning warning',
      [/1000/, /256/],
    ],
    [
      'the snapshot does not tell its mode',
      () => ({ args: `${arguments_} --state-pruning archive`, subject: { statePruning: undefined } }),
      'pruning warning',
      [/does not tell/, /leave --state-pruning out/],
    ],
    ['neither tells of it', () => ({ args: arguments_, subject: { statePruning: undefined } }), '', []],
    [
      'blocks that the snapshot has are removed',
      () => ({ args: `${arguments_} --blocks-pruning 500` }),
      'pruning warning',
      [/--blocks-pruning 500/, /--blocks-pruning archive/],
    ],
    [
      'blocks that the node shall have are missing',
      () => ({ args: arguments_, subject: { blocksPruning: '500' } }),
      'pruning warning',
      [/last 500 blocks/],
    ],
    [
      'the node runs another chain',
      () => ({ args: '-d BASE --chain kusama --database paritydb', subject: { genesisHash: OTHER } }),
      'genesis refusal TARGET_CHAIN|chain refusal TARGET_CHAIN',
      [/--chain kusama/, /ksmcc3/],
    ],
    [
      'somebody else calls its chain polkadot',
      () => ({ subject: { genesisHash: OTHER } }),
      'genesis refusal TARGET_CHAIN',
      [/0x7777/, /0x91b171/],
    ],
    [
      'only the node knows the chain',
      () => ({ args: '-d BASE --chain moonbeam --database paritydb' }),
      'chain warning',
      [/--chain moonbeam/],
    ],
    [
      'the chain is called by its spec id',
      () => ({ args: '-d BASE --chain ksmcc3 --database paritydb', subject: { specId: 'ksmcc3' } }),
      '',
      [],
    ],
    ['the node has the chain from its own name', () => ({ args: '-d BASE --database paritydb' }), '', []],
    [
      'the chain specification is not there',
      () => ({ args: '-d BASE --chain /none/spec.json --database paritydb' }),
      'chain warning',
      [/\/none\/spec\.json/],
    ],
    [
      'the data is elsewhere',
      () => ({ args: '-d /elsewhere --chain polkadot --database paritydb' }),
      'paths refusal TARGET_PATH',
      [/\/elsewhere/, /--base-path \/elsewhere/],
    ],
    [
      'the data is in the home of who runs it',
      () => ({ args: '--chain polkadot --database paritydb' }),
      'paths refusal TARGET_PATH',
      [/\.local\/share\/polkadot/],
    ],
    [
      'the data is temporary',
      () => ({ args: '--tmp --chain polkadot --database paritydb' }),
      'paths refusal TARGET_PATH',
      [/temporary folder \(--tmp\)/],
    ],
    [
      'the data is temporary, as with --dev alone',
      () => ({ args: '--dev --chain polkadot --database paritydb' }),
      'paths refusal TARGET_PATH',
      [/--dev/],
    ],
    [
      'the disk is too small',
      () => ({ subject: { bytes: 2 ** 60 } }),
      'room refusal NO_SPACE',
      [/bytes free/, /larger disk/],
    ],
    [
      'the node would have no room',
      () => ({ options: { reserve: 2 ** 60 } }),
      'room refusal NO_SPACE',
      [/left for the node/, /--disk-reserve/],
    ],
    [
      'a clock is an hour off',
      () => ({ options: { measureClock: async () => judgeClockSkew(3_600_000, 1000) } }),
      'clock refusal TARGET_CLOCK',
      [/1h/, /ahead of/],
    ],
    [
      'a clock is two minutes off',
      () => ({ options: { measureClock: async () => judgeClockSkew(-120_000, 1000) } }),
      'clock warning',
      [/2m/, /behind/],
    ],
    ['nobody knows the time', () => ({ options: { measureClock: async () => undefined } }), '', []],
    [
      'too many files for the limit',
      () => ({ subject: { files: 2 ** 31 } }),
      'files refusal TARGET_LIMITS',
      [/files open/, /65536/],
    ],
    [
      'RocksDB keeps few of them open',
      () => ({ args: '-d BASE --chain polkadot', subject: { ...rocksdb(), files: 2 ** 31 } }),
      '',
      [],
    ],
    [
      'there is no such unit',
      () => ({ options: { node: { unit: 'presync-none.service' } } }),
      'arguments refusal TARGET_NODE',
      [/presync-none\.service/],
    ],
    [
      'it cannot be told what is started',
      () => ({ options: { node: { command: ['sh', '-c', 'if true; then node; fi'] } } }),
      'arguments warning',
      [/only running it tells/],
    ],
    ['nothing is known of the node', () => ({ options: { node: undefined } }), '', []],
  ];
  for (const [title, changes, expected, named] of cases) {
    it(title, async () => {
      const found = (await scene.against(changes())).filter(
        // The disk, and the limit, of the machine that the test runs on.
        ({ check, verdict }) => check !== 'disk' && !(check === 'files' && verdict === 'warning'),
      );
      assert.equal(summary(found).join('|'), expected, JSON.stringify(found, null, 1));
      const said = found.map(({ message, hint }) => `${message} ${hint}`).join('\n');
      for (const name of named) assert.match(said, name);
      for (const { verdict, hint } of found) if (verdict === 'refusal') assert.ok(hint);
    });
  }
});

describe('what a preflight comes to', () => {
  const told: [string, string][] = [];
  const log = new Proxy({} as Logger, {
    get: (_, level) => (event: string, message: string) =>
      void told.push([`${String(level)} ${event}`, message]),
  });
  beforeEach(() => told.splice(0));

  it('all refusals are told together, with the code of the first', async () => {
    const args = '-d /elsewhere --chain polkadot --state-pruning 100';
    const findings = await preflight(scene.options({ args, subject: { bytes: 2 ** 60 } }));
    assert.throws(
      () => heed(findings, log),
      (error) => {
        assert.ok(error instanceof PreflightError && isPresyncError(error, 'TARGET_BACKEND'));
        assert.equal(error.exitCode, 6);
        assert.match(
          error.message,
          /^4 things stand against this restore: \(1\) .*--database.*\(2\) .*--state-pruning.*\(3\) .*elsewhere.*\(4\) .*bytes free/,
        );
        assert.match(error.hint ?? '', /\(1\) .*\(4\) /);
        assert.equal(error.findings, findings);
        return true;
      },
    );
    assert.deepEqual(told.at(-1), [
      'error preflight.refused',
      'the preflight refuses: backend, pruning, paths, room',
    ]);
  });

  it('a refusal that is overruled is a warning, and loud', async () => {
    const args = '-d /elsewhere --chain polkadot --database paritydb';
    const findings = await preflight(scene.options({ args, options: { ignore: ['paths'] } }));
    heed(findings, log);
    assert.deepEqual(
      findings.filter(({ overruled }) => overruled).map(({ check, verdict, code }) => [check, verdict, code]),
      [['paths', 'warning', 'TARGET_PATH']],
    );
    const loud = told.find(([event]) => event === 'warn preflight.overruled');
    assert.match(loud?.[1] ?? '', /^OVERRULED .*\/elsewhere/);
  });

  it('what lies there, what is another database, and the genesis can never be overruled', () => {
    const { schema } = OPTIONS.preflightIgnore.kind;
    const may = Object.keys(CHECKS).filter((check) => schema.safeParse([check]).success);
    const never = ['running', 'sibling', 'layout', 'existing', 'genesis', 'backend', 'disk'];
    assert.deepEqual(
      may,
      Object.keys(CHECKS).filter((check) => !never.includes(check)),
    );
  });
});
