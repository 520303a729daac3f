import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createServer, type IncomingMessage } from 'node:http';
import { createServer as createTcpServer, type Server } from 'node:net';
import { after, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { checkGate } from '../src/gate.ts';
import { findGap, samples } from '../src/lib/find-gap.ts';
import { connectNode, type NodeRpc } from '../src/rpc.ts';

const { signal } = new AbortController();
const HASH = `0x${'ab'.repeat(32)}`;
const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close();
});

async function listen(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return address.port;
}

type Answer = { status?: number; body?: unknown; hang?: boolean };

/** An HTTP server that gives the answers that a real node gives in trouble only. */
async function serve(answer: (method: string, request: IncomingMessage) => Answer): Promise<string> {
  const server = createServer((request, response) => {
    let text = '';
    request.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
    });
    request.on('end', () => {
      const { id, method } = JSON.parse(text);
      const { status = 200, body, hang } = answer(method, request);
      if (hang === true) return;
      response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
      response.end(
        typeof body === 'string'
          ? body
          : JSON.stringify({ jsonrpc: '2.0', id, ...(typeof body === 'object' ? body : {}) }),
      );
    });
  });
  return `http://127.0.0.1:${await listen(server)}`;
}

const failsWith = (pattern: RegExp) => (error: unknown) => {
  assert.ok(isPresyncError(error, 'NODE_RPC_FAILED'), String(error));
  assert.match(error.message, pattern);
  assert.ok(!error.message.includes('\n'));
  return true;
};

describe('connectNode', () => {
  test('nobody listens', async () => {
    const server = createTcpServer();
    const port = await listen(server);
    await new Promise((resolve) => server.close(resolve));
    for (const scheme of ['http', 'ws']) {
      await assert.rejects(
        connectNode(`${scheme}://127.0.0.1:${port}`, { signal }),
        failsWith(new RegExp(`${scheme}://127\\.0\\.0\\.1:${port}`)),
      );
    }
  });

  test('nobody answers', async () => {
    const sockets: { destroy(): void }[] = [];
    const port = await listen(createTcpServer((socket) => sockets.push(socket)));
    for (const scheme of ['http', 'ws']) {
      await assert.rejects(
        connectNode(`${scheme}://127.0.0.1:${port}`, { signal, timeoutMs: 200 }),
        failsWith(/no answer within 200 ms/),
      );
      await assert.rejects(
        connectNode(`${scheme}://127.0.0.1:${port}`, { signal: AbortSignal.timeout(100) }),
        (error) => isPresyncError(error, 'ABORTED'),
      );
    }
    for (const socket of sockets) socket.destroy();
  });

  test('the node answers with an error, a refusal, or nonsense', async () => {
    const cases: [Answer, RegExp][] = [
      [{ body: { error: { code: -32601, message: 'Method not found' } } }, /Method not found/],
      [{ status: 403, body: 'Provided Host header is not whitelisted.' }, /403/],
      [{ status: 503, body: '' }, /503/],
      [{ body: 'not json' }, /JSON|json/],
      [{ body: { result: 'no hash' } }, /an answer of an unknown form/],
    ];
    for (const [answer, pattern] of cases) {
      await assert.rejects(connectNode(await serve(() => answer), { signal }), failsWith(pattern));
    }
  });

  test('credentials are sent, and never told', async () => {
    let seen: string | undefined;
    const url = await serve((_, request) => {
      seen = request.headers.authorization;
      return { body: { result: seen === undefined ? null : HASH } };
    });
    const rpc = await connectNode(url.replace('http://', 'http://user:pa%20ss@').concat('/key?k=1'), {
      signal,
    });
    assert.equal(seen, `Basic ${Buffer.from('user:pa ss').toString('base64')}`);
    assert.doesNotMatch(rpc.location, /user|pa|key|k=1/);
    await rpc.close();
    await assert.rejects(rpc.best(), failsWith(/was closed/));
  });

  test('what is no URL of a node is refused', async () => {
    for (const url of ['127.0.0.1:9944', 'ftp://x', '']) {
      await assert.rejects(connectNode(url, { signal }), (error) => isPresyncError(error, 'CONFIG_INVALID'));
    }
  });

  test('writes nothing to stdout or stderr, whatever fails, and leaves nothing that keeps the process alive', () => {
    const program = `
      import { connectNode } from '@presync/node/rpc';
      const { signal } = new AbortController();
      for (const url of ['http://127.0.0.1:1', 'ws://127.0.0.1:1']) {
        await connectNode(url, { signal, timeoutMs: 2000 }).then(() => process.exit(3), () => undefined);
      }`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: import.meta.dirname,
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' });
  });
});

describe('checkGate', () => {
  const node = (changes: Partial<NodeRpc>): NodeRpc => ({
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
    ...changes,
  });
  const options = { minPeers: 3, maxFinalityLag: 10, signal };
  const cases: [string, Partial<NodeRpc>, RegExp | undefined][] = [
    ['a healthy node', {}, undefined],
    [
      'too few peers',
      { health: async () => ({ peers: 2, isSyncing: false, shouldHavePeers: true }) },
      /2 peers, fewer than 3/,
    ],
    [
      'no peers where none are needed',
      { health: async () => ({ peers: 0, isSyncing: false, shouldHavePeers: false }) },
      undefined,
    ],
    [
      'syncing',
      { health: async () => ({ peers: 8, isSyncing: true, shouldHavePeers: true }) },
      /at block 90 of 100/,
    ],
    ['finality lag', { finalized: async () => ({ number: 89, hash: HASH }) }, /11 blocks behind/],
    [
      'a gap',
      { blockHash: async (number) => (number > 40 && number < 60 ? undefined : HASH) },
      /block \d+ is missing/,
    ],
  ];
  for (const [name, changes, reason] of cases) {
    test(name, async () => {
      const { open, reasons } = await checkGate(node(changes), options);
      assert.equal(open, reason === undefined);
      if (reason !== undefined) assert.match(reasons.join(), reason);
    });
  }

  test('exceptions can be allowed', async () => {
    const changes = { ...cases[3]?.[1], ...cases[5]?.[1] };
    assert.ok(!(await checkGate(node(changes), options)).open);
    assert.ok((await checkGate(node(changes), { ...options, allowSyncing: true, allowGap: true })).open);
  });

  test('every gap longer than a 32nd of the chain is found, with few questions', async () => {
    for (const upTo of [1, 2, 40, 1000, 25_000_000]) {
      assert.ok(samples(upTo).every((number) => number >= 1 && number <= upTo));
      assert.ok(samples(upTo).length <= 64);
      const length = Math.ceil(upTo / 32) + 1;
      for (let from = 1; from + length <= upTo; from += Math.ceil(upTo / 97)) {
        const rpc = {
          blockHash: async (number: number) => (number >= from && number < from + length ? undefined : HASH),
        };
        assert.notEqual(await findGap(rpc, { upTo, signal }), undefined, `${from} of ${upTo}`);
      }
    }
    assert.deepEqual(samples(0), []);
  });
});
