/** The gates that the machine shuts, and the signs of a validator. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { GATE_IDS, GateShutError } from '../src/gate.ts';
import { type DatabaseLayout, scanDatabase } from '../src/layout.ts';
import { findMigration, findTightDisk, freeBytes } from '../src/machine-gate.ts';
import type { NodeRpc } from '../src/rpc.ts';
import { findValidator } from '../src/validator.ts';
import { makeDatabase } from './support/database.ts';

const { signal } = new AbortController();
const root = mkdtempSync(join(tmpdir(), 'presync-gates-'));
const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(root, { recursive: true });
});

let made = 0;
async function database(backend: 'rocksdb' | 'paritydb'): Promise<DatabaseLayout> {
  const mutable = backend === 'rocksdb' ? 'CURRENT' : 'metadata';
  return makeDatabase(join(root, `base-${made++}`), backend, {
    [mutable]: 'x',
    ...(backend === 'rocksdb'
      ? { '000001.sst': Buffer.alloc(200_000, 1) }
      : { table_00_00: Buffer.alloc(200_000, 1) }),
  });
}

const rpc = (role: string, chainType: string | undefined): NodeRpc => {
  const answers: Partial<NodeRpc> = { roles: async () => [role], chainType: async () => chainType };
  // Only these two are asked.
  return answers as NodeRpc;
};

describe('a validator', () => {
  const sessionKey = `${Buffer.from('babe').toString('hex')}${'ab'.repeat(32)}`;
  const accountKey = `${Buffer.from('acco').toString('hex')}${'ab'.repeat(32)}`;

  async function withKeys(...names: string[]): Promise<DatabaseLayout> {
    const layout = await database('rocksdb');
    const keystore = join(layout.basePath, 'chains/dev/keystore');
    mkdirSync(keystore);
    for (const name of names) writeFileSync(join(keystore, name), '"secret"');
    return layout;
  }

  test('is known by session keys in its keystore', async () => {
    const layout = await withKeys(sessionKey, accountKey);
    const gate = await findValidator({ layout, pid: undefined, rpc: rpc('Full', 'Live') });
    assert.equal(gate?.gate, 'validator');
    assert.match(gate?.reason ?? '', /session keys \(babe\)/);
    assert.doesNotMatch(gate?.reason ?? '', /secret|abab/);
  });

  test('is known by its role, also when the node does not tell what kind of chain it is on', async () => {
    const layout = await database('rocksdb');
    for (const type of ['Live', undefined]) {
      const gate = await findValidator({ layout, pid: undefined, rpc: rpc('Authority', type) });
      assert.match(gate?.reason ?? '', /role is Authority/);
    }
  });

  test('is known by its command line', async () => {
    const child = spawn(process.execPath, [
      '-e',
      'console.log(1); setInterval(() => {}, 1e6)',
      '--',
      '--validator',
    ]);
    children.push(child);
    await once(child.stdout, 'data');
    const gate = await findValidator({ layout: await database('rocksdb'), pid: child.pid, rpc: undefined });
    assert.match(gate?.reason ?? '', /started with --validator/);
    child.kill('SIGKILL');
  });

  test('is none without session keys and role, nor on a chain where nothing is lost', async () => {
    const layout = await withKeys(accountKey, 'notes.txt', `${sessionKey.slice(0, 40)}`);
    assert.equal(await findValidator({ layout, pid: process.pid, rpc: rpc('Full', 'Live') }), undefined);
    const local = await withKeys(sessionKey);
    for (const type of ['Development', 'Local']) {
      assert.equal(
        await findValidator({ layout: local, pid: undefined, rpc: rpc('Authority', type) }),
        undefined,
      );
    }
    const none = await database('paritydb');
    assert.equal(await findValidator({ layout: none, pid: undefined, rpc: undefined }), undefined);
  });
});

describe('a migration', () => {
  for (const [backend, name] of [
    ['rocksdb', 'db_version'],
    ['paritydb', 'metadata'],
  ] as const) {
    test(`of ${backend} is known by what lies beside the full folder, or in tmp`, async () => {
      const before = await database(backend);
      assert.equal(await findMigration(before), undefined);
      writeFileSync(join(before.dir, '..', name), '4');
      assert.equal((await findMigration(before))?.gate, 'migration');

      const during = await database(backend);
      const tmp = join(during.dir, '../../tmp');
      mkdirSync(tmp);
      writeFileSync(join(tmp, 'notes'), '');
      assert.equal(await findMigration(during), undefined);
      writeFileSync(join(tmp, name), '4');
      assert.match((await findMigration(during))?.reason ?? '', new RegExp(`tmp/${name} shows`));
    });
  }
});

describe('the disk', () => {
  test('must have room for what is copied, for scratch, and for the node', async () => {
    const layout = await database('paritydb');
    const files = await scanDatabase(layout, { signal });
    const { bavail, bsize } = statfsSync(layout.dir);
    const free = bavail * bsize;
    const look = (reserve: number, scratch: number) =>
      findTightDisk({
        layout,
        files,
        viewDir: undefined,
        stateDir: join(root, 'not/there/yet'),
        reserve,
        scratch,
      });
    assert.equal(await look(0, 0), undefined);
    const tight = await look(free * 2, 0);
    assert.equal(tight?.gate, 'disk');
    assert.match(tight?.reason ?? '', /free, and needs .*for the node/);
    assert.match((await look(0, free * 2))?.reason ?? '', /for scratch files/);
    // Each would fit alone: what shares a disk is added up.
    assert.match((await look(free * 0.6, free * 0.6))?.reason ?? '', /for scratch files and .* for the node/);
    assert.ok((await freeBytes(join(root, 'not/there'))) > 0);
  });

  test('counts what is copied, and no hard links', async () => {
    const { bavail, bsize } = statfsSync(root);
    const free = bavail * bsize;
    for (const [backend, name, counts] of [
      ['rocksdb', '000001.sst', false],
      ['paritydb', 'table_00_00', true],
    ] as const) {
      const layout = await database(backend);
      const files = (await scanDatabase(layout, { signal })).map((file) =>
        file.name === name ? { ...file, size: free * 2, allocated: free * 2 } : file,
      );
      const gate = await findTightDisk({
        ...{ layout, files, viewDir: undefined, stateDir: root },
        ...{ reserve: 0, scratch: 0 },
      });
      assert.equal(gate !== undefined, counts, backend);
    }
  });
});

test('a shut gate names all gates, their reasons and what to do', () => {
  const error = new GateShutError([
    { gate: 'peers', reason: '0 peers' },
    { gate: 'disk', reason: 'no room' },
  ]);
  assert.equal(error.exitCode, 3);
  assert.match(error.message, /0 peers; no room/);
  assert.match(error.hint ?? '', /--min-peers.*--disk-reserve/);
  assert.ok(GATE_IDS.length >= 11);
});
