/** Each gate alone: shut by its own cause, and open without it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, describe, test } from 'node:test';
import { GATE_IDS, type GateId, GateShutError } from '@presync/node/gate';
import { type DatabaseLayout, findDatabase, scanDatabase } from '@presync/node/layout';
import type { NodeRpc } from '@presync/node/rpc';
import { PresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import { createSilentLogger } from '@presync/runtime/log';
import { gatesOf, passGates } from '../src/lib/pass-gates.ts';
import type { SourceNodeOptions } from '../src/lib/source-node.ts';
import { type GateState, type LookOptions, lookAtGates } from '../src/look-at-gates.ts';

const { signal } = new AbortController();
const HASH = `0x${'ab'.repeat(32)}`;
const root = mkdtempSync(join(tmpdir(), 'presync-pass-gates-'));
after(() => rmSync(root, { recursive: true }));

const healthy: NodeRpc = {
  location: 'here',
  health: async () => ({ peers: 8, isSyncing: false, shouldHavePeers: true }),
  syncState: async () => ({ startingBlock: 0, currentBlock: 90, highestBlock: 100 }),
  best: async () => ({ number: 100, hash: HASH }),
  finalized: async () => ({ number: 97, hash: HASH }),
  blockHash: async () => HASH,
  genesisHash: async () => HASH,
  chainName: async () => 'x',
  chainType: async () => 'Live',
  roles: async () => ['Full'],
  implementation: async () => ({ name: 'x', version: '1' }),
  close: async () => undefined,
};

let basePath = '';
let made = 0;
beforeEach(() => {
  basePath = join(root, `base-${made++}`);
  const dir = join(basePath, 'chains/dev/db/full');
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'CURRENT'), 'MANIFEST-000001\n');
});

async function shutBy({
  rpc = {},
  options = {},
  prepare,
}: {
  rpc?: Partial<NodeRpc>;
  options?: Partial<SourceNodeOptions & LookOptions>;
  prepare?: (layout: DatabaseLayout) => void;
}): Promise<string[]> {
  const layout = await findDatabase({ basePath, signal });
  prepare?.(layout);
  try {
    await passGates(
      {
        ...{
          basePath,
          pause: { strategy: 'signal' },
          pauseBudgetMs: 1000,
          minPeers: 1,
          maxFinalityLag: 20,
          anchorAgeMs: 0,
        },
        ...{ stateDir: root, log: createSilentLogger(), signal },
        ...options,
      },
      {
        layout,
        files: await scanDatabase(layout, { signal }),
        holder: undefined,
        rpc: { ...healthy, ...rpc },
      },
    );
    return [];
  } catch (error) {
    assert.ok(error instanceof GateShutError, String(error));
    return error.gates.map(({ gate }) => gate);
  }
}

const CAUSES: Record<Exclude<GateId, 'rpc' | 'locked' | 'chain'>, Parameters<typeof shutBy>[0]> = {
  syncing: { rpc: { health: async () => ({ peers: 8, isSyncing: true, shouldHavePeers: true }) } },
  peers: { rpc: { health: async () => ({ peers: 0, isSyncing: false, shouldHavePeers: true }) } },
  finality: { rpc: { finalized: async () => ({ number: 79, hash: HASH }) } },
  gap: { rpc: { blockHash: async (number) => (number < 50 ? undefined : HASH) } },
  validator: { rpc: { roles: async () => ['Authority'] } },
  migration: { prepare: ({ dir }) => writeFileSync(join(dir, '../db_version'), '4') },
  disk: { options: { diskReserve: 2 ** 60 } },
  'quiet-hours': { options: { quietHours: ['00:00-00:00'], timezone: 'Europe/Berlin' } },
};

/** What somebody is told who asks before a run, with the same causes. */
async function lookedAt({
  rpc = {},
  options = {},
  prepare,
}: Parameters<typeof shutBy>[0]): Promise<Map<GateId, GateState>> {
  prepare?.(await findDatabase({ basePath, signal }));
  const states = await lookAtGates({
    ...{ basePath, pause: { strategy: 'signal' }, minPeers: 1, maxFinalityLag: 20, stateDir: root, signal },
    connect: async () => ({ ...healthy, ...rpc }),
    ...options,
  });
  assert.deepEqual(
    states.map(({ gate }) => gate),
    GATE_IDS,
  );
  return new Map(states.map((state) => [state.gate, state]));
}

function thoseThatAre(state: GateState['state'], states: ReadonlyMap<GateId, GateState>): GateId[] {
  return [...states.values()].filter((one) => one.state === state).map(({ gate }) => gate);
}

describe('passGates', () => {
  test('all open', async () => assert.deepEqual(await shutBy({}), []));

  for (const [gate, cause] of Object.entries(CAUSES)) {
    test(`${gate} shut`, async () => assert.deepEqual(await shutBy(cause), [gate]));
  }

  test('every gate that is shut is named, not the first one only', async () => {
    const { validator, peers, disk } = CAUSES;
    assert.deepEqual(
      await shutBy({ rpc: { ...validator.rpc, ...peers.rpc }, ...{ options: disk.options ?? {} } }),
      ['validator', 'disk', 'peers'],
    );
  });

  test('what is allowed shuts nothing', async () => {
    assert.deepEqual(await shutBy({ ...CAUSES.validator, options: { allowValidator: true } }), []);
  });

  test('where no node runs, there is none to be hurt', async () => {
    assert.deepEqual(
      await shutBy({ ...CAUSES.validator, options: { pause: { strategy: 'none' }, diskReserve: 2 ** 60 } }),
      [],
    );
  });
});

describe('lookAtGates', () => {
  test('all open, but for what there is nothing to compare with', async () => {
    const states = await lookedAt({});
    assert.deepEqual(thoseThatAre('not asked', states), ['chain']);
    assert.deepEqual(thoseThatAre('shut', states), []);
    assert.deepEqual(thoseThatAre('not asked', await lookedAt({ options: { genesisHash: HASH } })), []);
  });

  for (const [gate, cause] of Object.entries(CAUSES)) {
    test(`${gate} shut, and what to do`, async () => {
      const states = await lookedAt(cause);
      assert.deepEqual(thoseThatAre('shut', states), await shutBy(cause));
      const state = [...states.values()].find((one) => one.gate === gate);
      assert.equal(state?.state, 'shut');
      assert.ok((state?.reason ?? '').length > 5 && (state?.hint ?? '').length > 5);
    });
  }

  test('chain shut', async () => {
    const states = await lookedAt({ options: { genesisHash: `0x${'cd'.repeat(32)}` } });
    assert.deepEqual(thoseThatAre('shut', states), ['chain']);
  });

  test('rpc shut: what the node would say is not asked, and the machine is', async () => {
    const silent = async (): Promise<never> => {
      throw new PresyncError('NODE_RPC_FAILED', 'nobody is there', { hint: 'start it' });
    };
    for (const cause of [
      { rpc: { best: silent } },
      { rpc: { roles: silent } },
      { options: { connect: silent } },
    ]) {
      const options = { diskReserve: 2 ** 60, ...('options' in cause ? cause.options : {}) };
      const states = await lookedAt({ ...cause, options });
      assert.deepEqual(thoseThatAre('shut', states), ['rpc', 'disk']);
      assert.deepEqual(thoseThatAre('not asked', states), ['chain', 'syncing', 'peers', 'finality', 'gap']);
    }
  });

  test('locked shut while another presync takes a snapshot, which is not kept from it', async (t) => {
    const { dir } = await findDatabase({ basePath, signal });
    const lock = await acquireLock({ name: 'snapshot', dir, signal });
    const states = await lookedAt({});
    assert.deepEqual(thoseThatAre('shut', states), ['locked']);
    assert.match(states.get('locked')?.reason ?? '', new RegExp(`process ${process.pid}`));
    await lock.release();
    // Nobody is turned away because somebody looks: the lock is not taken, not even for a moment.
    const listen = t.mock.method(Server.prototype, 'listen');
    assert.deepEqual(thoseThatAre('shut', await lookedAt({})), []);
    assert.equal(listen.mock.callCount(), 0);
  });

  test('where no node runs, none is asked', async () => {
    const states = await lookedAt({
      ...CAUSES.validator,
      options: { pause: { strategy: 'none' }, diskReserve: 2 ** 60 },
    });
    assert.deepEqual(thoseThatAre('shut', states), []);
    assert.deepEqual(thoseThatAre('open', states), ['migration', 'disk', 'locked', 'quiet-hours']);
    assert.match(states.get('peers')?.reason ?? '', /--pause none/);
  });
});

test('a lock and a silent RPC are gates too; a failure is none', () => {
  const ids = (error: unknown): string[] | undefined => gatesOf(error)?.map(({ gate }) => gate);
  assert.deepEqual(ids(new PresyncError('LOCKED', 'x')), ['locked']);
  assert.deepEqual(ids(new PresyncError('NODE_RPC_FAILED', 'x')), ['rpc']);
  assert.deepEqual(ids(new GateShutError([{ gate: 'gap', reason: 'x' }])), ['gap']);
  assert.equal(ids(new PresyncError('STORE_FAILED', 'x')), undefined);
  assert.equal(ids(new Error('x')), undefined);
  const tried = [...Object.keys(CAUSES), 'rpc', 'locked', 'chain'].sort();
  assert.deepEqual(tried, [...GATE_IDS].sort());
});
