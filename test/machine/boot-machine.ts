/**
 * A new instance as a cloud would make it: cloud-init with user data of "presync cloud-init render", the node's unit enabled in the image, and nothing else of
 * presync there. What it needs comes over a network, from a real S3 server and a web server.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Machine, type MachineOptions, startMachine } from '../support/machine.ts';
import { createNetwork, type Host, type Network, untilListening } from '../support/network.ts';
import { builtPackage } from '../support/package.ts';
import { stopChild } from '../support/ports.ts';
import { COMMAND, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, type FixtureBackend, unpackFixture } from '../support/real-node.ts';
import { type S3Server, startS3Server } from '../support/s3-server.ts';
import { NODE, nodeBinds, nodeUnit } from './source-machine.ts';

export const AGENT = 'presync-bootstrap.service';
export const INSTALLER = 'presync-install.service';
export const BASE_PATH = '/var/lib/polkadot';

const FILES_PORT = 8080;
const READY = 'http://127.0.0.1:9616';
/** Of the node's user, so that `--owner` can name it before the machine is there. */
const OWNER = 900;

export interface Cloud {
  network: Network;
  s3: S3Server;
  /** Where the executable is offered. */
  executable: { url: string; sha256: string };
  /** Downloads of the executable that have begun. */
  downloads(): number;
  /** User data for a new instance; the options are added to those of every one. */
  userData(...more: string[]): Promise<string>;
  /** Starts an instance from it. It is not waited for further than that commands can be run. */
  launch(userData: string, options?: Pick<MachineOptions, 'binds' | 'prepare'>): Promise<Machine>;
  end(): Promise<void>;
}

/** A network with a repository that holds a snapshot of the fixture, and the executable. `dir` is scratch. */
export async function createCloud(dir: string, backend: FixtureBackend): Promise<Cloud> {
  const { executable: built } = await builtPackage();
  const network = await createNetwork();
  const undo: (() => Promise<void> | void)[] = [() => network.end()];
  const end = async (): Promise<void> => {
    for (const step of undo.splice(0).toReversed()) await step();
  };
  try {
    const s3 = await startS3Server({ host: network.hub });
    undo.push(() => s3.stop());
    const files = await serveFiles(network.hub, dirname(built));
    undo.push(() => files.stop());
    const store = s3.url.replace('?', '/presync?');
    const key = join(dir, 'key.pem');
    await presyncOk(['keys', 'new', '--out', key]);
    const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
    await takeSnapshot({ dir, backend, store, key, host: network.hub, env: s3.env });
    const sha256 = createHash('sha256')
      .update(await readFile(built))
      .digest('hex');
    const executable = { url: `${files.url}/presync`, sha256 };
    const binds = await nodeBinds();
    return {
      network,
      s3,
      executable,
      downloads: () => files.log().split('"GET /presync ').length - 1,
      async userData(...more) {
        const { stdout } = await presyncOk([
          ...['cloud-init', 'render', '--base-path', BASE_PATH, '--store', store, '--trust', trust],
          ...['--genesis', DEV_GENESIS, '--owner', `${OWNER}:${OWNER}`, '--unit', NODE],
          ...['--rpc', 'http://127.0.0.1:9944', '--report', '/var/lib/presync/report.json', ...more],
        ]);
        return stdout;
      },
      launch: async (userData, options = {}) =>
        startMachine({
          host: await network.join(),
          until: 'reached',
          binds: [...binds, ...(options.binds ?? [])],
          async prepare(root) {
            await prepareImage(root, { backend, env: s3.env });
            await seed(root, userData);
            await options.prepare?.(root);
          },
        }),
      end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}

/** The user data with which presync is launched beside somebody else's, as one message. */
export function multipart(...parts: readonly string[]): string {
  const boundary = 'presync-test-boundary';
  return [
    `Content-Type: multipart/mixed; boundary="${boundary}"`,
    'MIME-Version: 1.0',
    '',
    ...parts.flatMap((part) => [
      `--${boundary}`,
      'Content-Type: text/cloud-config; charset="utf-8"',
      '',
      part,
    ]),
    `--${boundary}--`,
    '',
  ].join('\n');
}

/** What /readyz says; undefined while nobody answers. */
export async function readiness(machine: Machine): Promise<{ ok: boolean; text: string } | undefined> {
  const program = `fetch('${READY}/readyz').then(async (r) => process.stdout.write(JSON.stringify({ ok: r.ok, text: await r.text() })), () => {})`;
  const { stdout } = await machine.inNetwork(process.execPath, '-e', program);
  return stdout === '' ? undefined : JSON.parse(stdout);
}

/** The agent's metrics. */
export async function metrics(machine: Machine): Promise<string> {
  const program = `fetch('${READY}/metrics').then((r) => r.text()).then((t) => process.stdout.write(t), () => {})`;
  return (await machine.inNetwork(process.execPath, '-e', program)).stdout;
}

async function takeSnapshot({
  dir,
  backend,
  store,
  key,
  host,
  env,
}: {
  dir: string;
  backend: FixtureBackend;
  store: string;
  key: string;
  host: Host;
  env: Record<string, string>;
}): Promise<void> {
  const base = join(dir, 'source');
  await unpackFixture(backend, base);
  const child = host.spawn(
    [
      ...[process.execPath, COMMAND, 'snapshot', '--base-path', base, '--store', store, '--sign-key', key],
      ...['--pause', 'none', '--genesis', DEV_GENESIS, '--state-dir', join(dir, 'source-state')],
    ],
    { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`presync snapshot ended with ${code}:\n${said}`);
}

interface FileServer {
  url: string;
  /** Its access log. */
  log(): string;
  stop(): Promise<void>;
}

async function serveFiles(host: Host, folder: string): Promise<FileServer> {
  const server = host.spawn(
    ['python3', '-u', '-m', 'http.server', String(FILES_PORT), '--bind', host.address, '--directory', folder],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  server.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  await untilListening(host, FILES_PORT, server, 'the web server');
  return { url: `http://${host.address}:${FILES_PORT}`, log: () => log, stop: () => stopChild(server) };
}

/** What is in the image: a node whose unit is enabled, its user, and the access to the store that a cloud gives by a role. */
async function prepareImage(
  root: string,
  { backend, env }: { backend: FixtureBackend; env: Record<string, string> },
): Promise<void> {
  const put = async (path: string, text: string, mode = 0o644): Promise<void> => {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text, { mode });
  };
  // A journal that outlives a boot.
  await mkdir(join(root, 'var/log/journal'), { recursive: true });
  await appendFile(
    join(root, 'etc/passwd'),
    `polkadot:x:${OWNER}:${OWNER}::${BASE_PATH}:/usr/sbin/nologin\n`,
  );
  await appendFile(join(root, 'etc/group'), `polkadot:x:${OWNER}:\n`);
  await put(`etc/systemd/system/${NODE}`, nodeUnit({ backend, basePath: BASE_PATH, rpcPort: 9944 }));
  const wants = join(root, 'etc/systemd/system/multi-user.target.wants');
  await mkdir(wants, { recursive: true });
  await symlink(`/etc/systemd/system/${NODE}`, join(wants, NODE));
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}\n`);
  await put('etc/presync/presync.env', variables.join(''), 0o600);
}

/** A NoCloud seed. The network is as its host has it. */
async function seed(root: string, userData: string): Promise<void> {
  const folder = join(root, 'var/lib/cloud/seed/nocloud');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'meta-data'), 'instance-id: instance-1\nlocal-hostname: instance-1\n');
  await writeFile(join(folder, 'user-data'), userData);
  // The tree has neither locales nor an SSH server, which cloud-init would set up.
  const settings = 'network: {config: disabled}\nlocale: false\nssh_genkeytypes: []\n';
  await writeFile(join(root, 'etc/cloud/cloud.cfg.d/99-image.cfg'), settings);
}

/** Removes a scratch folder. */
export const discard = (dir: string): Promise<void> => rm(dir, { recursive: true, force: true });
