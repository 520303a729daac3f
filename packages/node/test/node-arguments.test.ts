import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import {
  backendOf,
  type ChainArguments,
  isTemporary,
  parseNodeArguments,
  pruningMode,
} from '../src/lib/parse-arguments.ts';
import { configuredNode, hostPath, readChainSpec } from '../src/node-arguments.ts';

const signal = new AbortController().signal;

const NOTHING: ChainArguments = {
  basePath: undefined,
  chain: undefined,
  database: undefined,
  statePruning: undefined,
  blocksPruning: undefined,
  sync: undefined,
  rpcPort: undefined,
  dev: false,
  tmp: false,
  authors: false,
};

describe("a node's arguments", () => {
  const cases: [string, Partial<ChainArguments>][] = [
    ['', {}],
    ['--base-path /data', { basePath: '/data' }],
    ['--base-path=/data', { basePath: '/data' }],
    ['-d /data', { basePath: '/data' }],
    ['-d=/data', { basePath: '/data' }],
    ['-d/data', { basePath: '/data' }],
    ['--chain kusama --dev', { chain: 'kusama', dev: true }],
    ['--db ParityDb', { database: 'ParityDb' }],
    ['--database=auto', { database: 'auto' }],
    ['--pruning archive', { statePruning: 'archive' }],
    ['--state-pruning=256 --blocks-pruning archive', { statePruning: '256', blocksPruning: 'archive' }],
    ['--keep-blocks 1000', { blocksPruning: '1000' }],
    ['--sync warp --rpc-port 9955', { sync: 'warp', rpcPort: '9955' }],
    ['--validator', { authors: true }],
    ['--collator', { authors: true }],
    ['--tmp', { tmp: true }],
    ['--chain a --chain b', { chain: 'b' }],
    ['--name --chain x', { chain: 'x' }],
    ['--chain', {}],
    ['--detailed-log-output --database-cache-size 1', {}],
    ['--bootnodes /dns/a /dns/b --chain=', { chain: '' }],
    ['--devnet --db-cache 64', {}],
  ];
  for (const [line, expected] of cases) {
    it(`of: ${line}`, () => {
      const args = line.split(' ').filter(Boolean);
      assert.deepEqual(parseNodeArguments(args), {
        ...NOTHING,
        ...expected,
        relay: undefined,
        relayByRpc: false,
      });
    });
  }

  it("of a parachain's node: what follows -- is the relay chain's, and only that", () => {
    const parsed = parseNodeArguments(
      '--chain asset.json -d /para --relay-chain-rpc-urls ws://a -- --chain polkadot --state-pruning 100 -d /relay'.split(
        ' ',
      ),
    );
    assert.deepEqual(parsed, {
      ...NOTHING,
      chain: 'asset.json',
      basePath: '/para',
      relayByRpc: true,
      relay: { ...NOTHING, chain: 'polkadot', statePruning: '100', basePath: '/relay' },
    });
    assert.deepEqual(parseNodeArguments(['--']).relay, NOTHING);
  });

  it('are the same with a blank and with an equals sign, in any order, and among any others', () => {
    const value = fc.string({ minLength: 1, maxLength: 12 }).filter((text) => !/^(?:-|=)/.test(text));
    const others = fc.subarray([
      '--no-mdns',
      '--name=x',
      '-lsync=debug',
      '--rpc-external',
      '--port',
      '30333',
    ]);
    fc.assert(
      fc.property(
        fc.record({ basePath: value, chain: value, database: value, statePruning: value, rpcPort: value }),
        fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
        others,
        (given, attached, rest) => {
          const flags = {
            basePath: '--base-path',
            chain: '--chain',
            database: '--database',
            statePruning: '--state-pruning',
            rpcPort: '--rpc-port',
          };
          const args = Object.entries(flags).flatMap(([key, flag], index) => {
            const text = given[key as keyof typeof given];
            return attached[index] === true ? [`${flag}=${text}`] : [flag, text];
          });
          const { relay, relayByRpc, ...found } = parseNodeArguments([...rest, ...args]);
          assert.deepEqual(found, { ...NOTHING, ...given });
        },
      ),
    );
  });

  it('mean what polkadot-sdk takes them for', () => {
    const backend = (database?: string) => backendOf({ database });
    assert.deepEqual(
      [undefined, 'rocksdb', 'RocksDB', 'paritydb', 'paritydb-experimental', 'Auto', 'sled'].map(backend),
      ['rocksdb', 'rocksdb', 'rocksdb', 'paritydb', 'paritydb', 'auto', undefined],
    );
    assert.deepEqual(
      ['archive', 'archive-canonical', '256', '0', '4294967295', '4294967296', '-1', 'all', ''].map(
        pruningMode,
      ),
      ['archive', 'archive-canonical', 256, 0, 4294967295, undefined, undefined, undefined, undefined],
    );
    const temporary = (line: string) => isTemporary(parseNodeArguments(line.split(' ')));
    assert.deepEqual(['--dev', '--dev -d x', '--tmp', '--chain dev'].map(temporary), [
      true,
      false,
      true,
      false,
    ]);
  });
});

describe('a node command', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'presync-command-'));
    // A program that is no script.
    await writeFile(join(dir, 'polkadot'), Buffer.from('7f454c46', 'hex'), { mode: 0o755 });
  });
  after(() => rm(dir, { recursive: true, force: true }));

  const read = (command: readonly string[]) => configuredNode({ command }, { signal });

  it('is read through runners, shells and scripts', async () => {
    const polkadot = join(dir, 'polkadot');
    await writeFile(
      join(dir, 'start.sh'),
      `#!/bin/bash -e
# Starts the node; exec polkadot --chain wrong
ulimit -n 65536
export BASE=/data CHAIN="kusama"
mkdir -p "$BASE" && cd /srv
DB=paritydb \\
  exec ${polkadot} --chain "$CHAIN" --base-path="$BASE" --database \${DB:-rocksdb} "$@" 2>>/var/log/node.log
`,
    );
    await chmod(join(dir, 'start.sh'), 0o755);
    const commands = [
      [polkadot, '--chain', 'kusama', '-d', '/data', '--db', 'rocksdb', '--sync', 'warp'],
      [
        'nice',
        '-n',
        '5',
        'ionice',
        '-c2',
        polkadot,
        '--chain=kusama',
        '-d/data',
        '--db=rocksdb',
        '--sync',
        'warp',
      ],
      ['env', 'A=b', '-u', 'C', polkadot, '--chain', 'kusama', '-d', '/data', '--sync=warp'],
      ['taskset', '-a', '0-3', polkadot, '--chain', 'kusama', '-d', '/data', '--sync', 'warp'],
      ['sh', '-c', `exec ${polkadot} --chain 'kusama' -d "/data" --sync warp`],
      ['bash', '-lc', `X=/data; ${polkadot} --chain "$0" -d $X --sync $1`, 'kusama', 'warp'],
      [
        'sudo',
        '-u',
        'polkadot',
        '--',
        'sh',
        '-ec',
        `sleep 1; ${polkadot} --chain kusama -d /data --sync warp | tee log`,
      ],
      [join(dir, 'start.sh'), '--sync', 'warp'],
      ['bash', join(dir, 'start.sh'), '--sync', 'warp'],
    ];
    for (const command of commands) {
      const node = await read(command);
      assert.equal(node.obstacle, undefined, `${command}: ${node.obstacle}`);
      assert.equal(node.executable, polkadot);
      const { chain, basePath, sync } = node.arguments ?? NOTHING;
      assert.deepEqual([chain, basePath, sync], ['kusama', '/data', 'warp'], command.join(' '));
    }
    assert.equal((await read([join(dir, 'start.sh')])).cwd, '/srv');
    // DB stands before the command, so the shell does not have it yet when it puts in its arguments.
    assert.equal((await read([join(dir, 'start.sh')])).arguments?.database, 'rocksdb');
  });

  it('that only running it tells is not guessed', async () => {
    const polkadot = join(dir, 'polkadot');
    for (const script of [
      `${polkadot} --chain $(cat chain)`,
      `${polkadot} --chain "\`cat chain\`"`,
      `if true; then ${polkadot} --chain a; fi`,
      `. /etc/default/node; ${polkadot} --chain $CHAIN`,
      `${polkadot} --chain \${CHAIN%.json}`,
      `( ${polkadot} --chain a )`,
      `start() { ${polkadot} --chain a; }; start`,
      `cat <<END | ${polkadot} --chain a`,
      'true',
    ]) {
      const node = await read(['sh', '-c', script]);
      assert.notEqual(node.obstacle, undefined, script);
      assert.equal(node.arguments, undefined, script);
    }
    for (const command of [
      ['docker', 'start', 'polkadot'],
      ['docker', 'compose', 'up'],
      ['sh'],
      ['false'],
      ['nice'],
    ])
      assert.equal((await read(command)).arguments, undefined, command.join(' '));
  });

  it('in a container: arguments, volumes, user and limits of it', async () => {
    const node = await read(
      'docker run --rm -it --name node --ulimit nofile=1024:4096 -v /srv/node:/data -v keys:/keys:ro --mount type=bind,source=/etc/chains,target=/chains -u 1000:1000 -e RUST_LOG=info --network=host -w /work parity/polkadot:v1 --chain /chains/a.json -d /data/b --database paritydb'.split(
        ' ',
      ),
    );
    assert.equal(node.obstacle, undefined);
    assert.equal(node.executable, undefined);
    assert.deepEqual([node.user, node.openFiles], [undefined, 4096]);
    assert.deepEqual([node.arguments?.chain, node.arguments?.basePath], ['/chains/a.json', '/data/b']);
    assert.deepEqual(
      ['/chains/a.json', '/data/b', '/data', '/database', '/keys/x', 'c'].map((path) => hostPath(node, path)),
      ['/etc/chains/a.json', '/srv/node/b', '/srv/node', undefined, undefined, undefined],
    );
  });

  it('with a relative path is relative to the folder it runs in', async () => {
    const node = await read(['sh', '-c', `cd /srv && ${join(dir, 'polkadot')} -d data`]);
    assert.equal(hostPath(node, node.arguments?.basePath ?? ''), '/srv/data');
  });
});

describe('a chain specification', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'presync-spec-'));
    await mkdir(join(dir, 'folder'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  const head = async (text: string) => {
    await writeFile(join(dir, 'spec.json'), text);
    return readChainSpec(join(dir, 'spec.json'), { signal });
  };

  it('tells its id wherever it stands, and its relay chain', async () => {
    const genesis = { raw: { top: { '0x3a': `0x${'ab'.repeat(3_000_000)}`, id: 'inner' }, id: 'inner' } };
    const fields = {
      name: '"id": "no", {',
      id: 'asset-hub',
      relay_chain: 'polkadot',
      x: ['id', { id: 'in' }],
    };
    for (const spec of [
      { ...fields, genesis },
      { genesis, ...fields },
    ])
      assert.deepEqual(await head(JSON.stringify(spec, null, 1)), {
        id: 'asset-hub',
        relayChain: 'polkadot',
      });
    assert.deepEqual(await head('{"id":"a\\u0062\\"c"}'), { id: 'ab"c', relayChain: undefined });
    assert.deepEqual(await head('{"properties":{"id":"x"},"id" : "y","relayChain":"z"}'), {
      id: 'y',
      relayChain: 'z',
    });
  });

  it('that is none is refused', async () => {
    for (const text of ['', '{}', '[{"id":"x"}]', '{"genesis":{"id":"x"}}', '{"id":7}', '{"id":{"a":"b"}}'])
      await assert.rejects(head(text), { code: 'FORMAT_INVALID' }, text);
    await assert.rejects(readChainSpec(join(dir, 'absent'), { signal }), { code: 'IO_FAILED' });
    await assert.rejects(readChainSpec(join(dir, 'folder'), { signal }), { code: 'IO_FAILED' });
  });
});
