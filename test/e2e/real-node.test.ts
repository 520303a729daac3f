/**
 * The whole road with the real node: it makes blocks while snapshots of it are taken; each is restored to a new base path, where a
 * second node opens it, has the manifest's anchor block, and goes on making blocks.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiPromise, Keyring, WsProvider } from '@polkadot/api';
import type { ProviderInterface } from '@polkadot/rpc-provider/types';
import { needs } from '../support/needs.ts';
import { presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, type RealNode, startNode } from '../support/real-node.ts';

const SNAPSHOTS = 5;
/** Blocks between two snapshots, at least. */
const BLOCKS_BETWEEN = 20;

/** Transfers before each snapshot, so that the state changes and not only the chain grows. */
const TRANSFERS = 10;

interface Taken {
  sequence: number;
  promoted: boolean;
  blocksAdvanced: boolean;
  manifest: {
    chain: { genesisHash: string; anchor: { number: number; hash: string }; head: { number: number } };
    node: { statePruning: string; blocksPruning: string };
    pause: { strategy: string; seconds: number };
  };
}

describe('with the real node', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(
      `takes ${SNAPSHOTS} snapshots of a running ${backend} node, and each comes up`,
      needs('a node executable', hasNode()),
      async (t) => {
        const dir = await mkdtemp(join(tmpdir(), `presync-e2e-${backend}-`));
        t.after(() => rm(dir, { recursive: true, force: true }));
        const key = join(dir, 'key.pem');
        await presyncOk(['keys', 'new', '--out', key]);
        const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
        const store = `file://${join(dir, 'store')}`;
        const base = join(dir, 'source');
        const taken: Taken[] = [];
        const source = await startNode({ basePath: base, backend, blockTimeMs: 100 });
        const churn = await startChurn(source);
        try {
          for (let n = 1; n <= SNAPSHOTS; n++) {
            await churn.transfer();
            await untilBlock(source, (await source.best()) + BLOCKS_BETWEEN);
            const watch = watchStops(source.pid);
            const { json } = await presyncOk([
              ...[
                'snapshot',
                '--base-path',
                base,
                '--store',
                store,
                '--pause',
                'signal',
                '--pid',
                String(source.pid),
              ],
              ...[
                '--rpc',
                source.wsUrl,
                '--genesis',
                DEV_GENESIS,
                '--sign-key',
                key,
                '--state-dir',
                join(dir, 'state'),
                '--json',
              ],
            ]);
            const stopped = await watch.end();
            const snapshot = json as Taken;
            taken.push(snapshot);
            assert.equal(snapshot.sequence, n);
            assert.equal(snapshot.promoted, true);
            assert.equal(snapshot.blocksAdvanced, true, 'no block was seen after the pause');
            assert.equal(snapshot.manifest.chain.genesisHash, DEV_GENESIS);
            assert.equal(snapshot.manifest.node.statePruning, 'archive');
            assert.ok(snapshot.manifest.chain.anchor.number <= snapshot.manifest.chain.head.number);
            // Seen from outside, so it can only be shorter than it was.
            assert.ok(
              stopped <= snapshot.manifest.pause.seconds,
              `stopped for ${stopped} s, the manifest states ${snapshot.manifest.pause.seconds} s`,
            );
          }
          await untilBlock(source, (await source.best()) + 3);
          assert.equal(await churn.included(), SNAPSHOTS * TRANSFERS, 'not every transfer is in a block');
        } finally {
          await churn.end();
          await source.stop();
        }
        for (const { sequence, manifest } of taken) {
          const target = join(dir, `target-${sequence}`);
          const report = join(dir, `report-${sequence}.json`);
          await presyncOk([
            ...[
              'restore',
              '--base-path',
              target,
              '--store',
              store,
              '--trust',
              trust,
              '--state-dir',
              join(dir, 'agent'),
            ],
            ...['--snapshot', String(sequence), '--genesis', DEV_GENESIS, '--report', report],
          ]);
          assert.equal(JSON.parse(await readFile(report, 'utf8')).sequence, sequence);
          const node = await startNode({ basePath: target, backend, blockTimeMs: 100 });
          try {
            const opened = await node.best();
            const { anchor } = manifest.chain;
            assert.equal(
              await node.call('chain_getBlockHash', anchor.number),
              anchor.hash,
              `the copy has no anchor block ${anchor.number}`,
            );
            await untilBlock(node, opened + 5);
          } finally {
            await node.stop();
          }
          await rm(target, { recursive: true, force: true });
        }
      },
    );
  }
});

/** Sends transfers from one of the well-known development accounts to another. */
async function startChurn(
  node: RealNode,
): Promise<{ transfer(): Promise<void>; included(): Promise<number>; end(): Promise<void> }> {
  // The class and the interface differ in one optional property, which the strict compiler minds.
  const provider = new WsProvider(node.wsUrl) as unknown as ProviderInterface;
  const api = await ApiPromise.create({ provider, noInitWarn: true });
  const keys = new Keyring({ type: 'sr25519' });
  const alice = keys.addFromUri('//Alice');
  const bob = keys.addFromUri('//Bob');
  let nonce = 0;
  return {
    async transfer() {
      for (let n = 0; n < TRANSFERS; n++) {
        const call = api.tx.balances?.transferKeepAlive?.(bob.address, 1_000_000_000_000);
        assert.ok(call !== undefined, 'the chain has no balances');
        await call.signAndSend(alice, { nonce: nonce++ });
      }
    },
    async included() {
      // The pool's own view of the next nonce would count what is still waiting.
      const account = await node.call('system_accountNextIndex', alice.address);
      const pending = (await node.call('author_pendingExtrinsics')) as unknown[];
      return Number(account) - pending.length;
    },
    end: () => api.disconnect(),
  };
}

async function untilBlock(node: RealNode, number: number): Promise<void> {
  const deadline = performance.now() + 120_000;
  while ((await node.best()) < number) {
    assert.ok(performance.now() < deadline, `the node makes no block ${number}: ${node.log()}`);
    await sleep(50);
  }
}

/** Looks at the process's state every millisecond or so; ends with the longest time, in seconds, that it was seen stopped without a break. */
function watchStops(pid: number): { end(): Promise<number> } {
  let longest = 0;
  let since: number | undefined;
  let going = true;
  const loop = (async () => {
    while (going) {
      const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const now = performance.now();
      if (text.charAt(text.lastIndexOf(')') + 2) === 'T') {
        since ??= now;
        longest = Math.max(longest, (now - since) / 1000);
      } else {
        since = undefined;
      }
      await sleep(1);
    }
  })();
  return {
    async end() {
      going = false;
      await loop;
      return longest;
    },
  };
}
