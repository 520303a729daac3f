/** A source node as an operator would set it up: systemd, the real node under its own user, presync from the Debian package. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '@presync/runtime/errors';
import { type JournalEntry, type Machine, type MachineOptions, startMachine } from '../support/machine.ts';
import { builtPackage } from '../support/package.ts';
import {
  DEV_GENESIS,
  devChainSpec,
  type FixtureBackend,
  nodeExecutable,
  unpackFixture,
} from '../support/real-node.ts';

export const NODE = 'polkadot.service';
export const PRESYNC = 'presync-snapshotter.service';

export const BLOCK_MS = 500;
/** The node is back after this long, however presync fares. */
export const BUDGET_MS = 10_000;
/** Blocks come late on a machine that is busy, and a node that was resumed has to catch its breath. */
export const SLACK_MS = 5_000;

const RPC = 'http://127.0.0.1:9944';
const ADMIN = 'http://127.0.0.1:9616';
const STATE = '/var/lib/presync';

/** The ways to hold a node that is a unit. */
export type UnitPause = 'signal' | 'freeze' | 'stop';

export interface SourceMachine {
  machine: Machine;
  backend: FixtureBackend;
  pause: UnitPause;
  /** The store's and the state's folders, as seen from outside. */
  store: string;
  state: string;
  /** The node stands still, or is down, as its strategy wants it. */
  isHeld(): boolean;
  /** Numbers of the snapshots whose manifest is visible, in order. */
  snapshots(): Promise<number[]>;
  /** Takes the room of the state's file system away until that many KiB are left. */
  fillState(leave: number): Promise<void>;
  emptyState(): Promise<void>;
  /** The newest block that the node's log tells of; -1 when its last lines tell of none. */
  best(): Promise<number>;
  metrics(): Promise<string>;
  /** presync's log since a time in seconds: what it wrote as JSON. */
  events(since?: number): Promise<LogRecord[]>;
  /** The longest time between two blocks that the node's own log tells of, in seconds, since a time. */
  longestHole(since: number): Promise<{ seconds: number; blocks: number }>;
  end(): Promise<void>;
}

export interface LogRecord {
  at: number;
  event: string;
  level: string;
  msg: string;
  code: string | undefined;
}

export interface SourceOptions {
  backend: FixtureBackend;
  /** Scratch folder; what is in it afterwards is of no use. */
  dir: string;
  /** When snapshots are taken. */
  schedule: string;
  /** How the node is held still. Default `signal`. */
  pause?: UnitPause;
  /** Options of presync that are to differ from those of `configure`. */
  settings?: Readonly<Record<string, unknown>>;
}

/** The seconds since the epoch, as the journal counts them. */
export const now = (): number => Date.now() / 1000;

/** Boots the machine, installs presync, and waits until the node makes blocks and the daemon waits for its schedule. */
export async function startSource(options: SourceOptions): Promise<SourceMachine> {
  const { backend, dir, pause = 'signal' } = options;
  const { deb } = await builtPackage();
  if (deb === undefined) throw new Error('the package could not be built: dpkg-deb is missing');
  const [store, state, base] = [join(dir, 'store'), join(dir, 'state'), join(dir, 'base')];
  for (const folder of [store, state, base]) await mkdir(folder, { recursive: true });
  // A chain that has begun: the node need not make its first state.
  await unpackFixture(backend, base);
  // A file system of its own, so that it can be filled.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m,mode=0750', 'presync-state', state]);
  let machine: Machine | undefined;
  const end = async (): Promise<void> => {
    await machine?.end();
    execFileSync('umount', ['--lazy', state]);
    await rm(dir, { recursive: true, force: true });
  };
  try {
    machine = await startMachine({
      binds: [
        ...(await nodeBinds()),
        { from: deb, to: '/opt/presync.deb', readOnly: true },
        { from: base, to: '/var/lib/polkadot' },
        { from: store, to: '/srv/presync' },
        { from: state, to: STATE },
      ],
    });
    const source = describe(machine, { backend, pause, store, state, end });
    await installNode(machine, backend);
    await machine.ok('dpkg', '--install', '/opt/presync.deb');
    await configure(machine, { ...PAUSES[pause], schedule: options.schedule, ...options.settings });
    await until('the node makes blocks', async () => (await source.best()) > 0);
    await machine.ok('systemctl', 'start', PRESYNC);
    return source;
  } catch (error) {
    const said = await machine?.journal().catch((): JournalEntry[] => []);
    await end();
    const tail = said
      ?.slice(-30)
      .map(({ unit, message }) => `${unit} ${message}`)
      .join('\n');
    throw new Error(`the source machine could not be set up; the end of its journal:\n${tail}`, {
      cause: error,
    });
  }
}

async function installNode(machine: Machine, backend: FixtureBackend): Promise<void> {
  await machine.ok('useradd', '--system', '--home-dir', '/var/lib/polkadot', 'polkadot');
  await machine.ok('chown', '--recursive', 'polkadot:polkadot', '/var/lib/polkadot');
  await addNodeUnit(machine, NODE, { backend, basePath: '/var/lib/polkadot', rpcPort: 9944 });
  await machine.ok('systemctl', 'start', NODE);
}

interface NodeUnitOptions {
  backend: FixtureBackend;
  basePath: string;
  rpcPort: number;
}

async function addNodeUnit(machine: Machine, unit: string, options: NodeUnitOptions): Promise<void> {
  await writeFile(join(machine.root, 'etc/systemd/system', unit), nodeUnit(options));
  await machine.ok('systemctl', 'daemon-reload');
}

/** A unit of the real node, whose executable and chain specification are bound into the machine. */
export function nodeUnit({ backend, basePath, rpcPort }: NodeUnitOptions): string {
  return `[Unit]
Description=the node
StartLimitIntervalSec=0

[Service]
User=polkadot
RuntimeDirectory=%p
ExecStart=/usr/local/bin/polkadot-omni-node --chain /usr/local/share/dev-chain-spec.json --dev \\
  --base-path ${basePath} --database ${backend} --dev-block-time ${BLOCK_MS} --pool-type single-state \\
  --state-pruning archive --blocks-pruning archive --rpc-port ${rpcPort} --listen-addr /ip4/127.0.0.1/tcp/0 \\
  --reserved-only --no-mdns --no-telemetry --no-prometheus --disable-log-color
ExecStartPost=/bin/sh -c 'echo $MAINPID > /run/%p/pid'
KillSignal=SIGINT
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
`;
}

/** What such a unit needs in the machine. */
export async function nodeBinds(): Promise<NonNullable<MachineOptions['binds']>> {
  return [
    { from: await nodeExecutable(), to: '/usr/local/bin/polkadot-omni-node', readOnly: true },
    { from: await devChainSpec(), to: '/usr/local/share/dev-chain-spec.json', readOnly: true },
  ];
}

/** The unit of a second node in the same machine, which is to come up from the snapshots of the first. */
export const SECOND = 'second.service';

/** Starts a second node behind the gate of the package, so that presync-bootstrap.service brings it up, and waits until that says that the node is ready. */
export async function bootstrapSecond({ machine, backend, snapshots }: SourceMachine): Promise<void> {
  const basePath = '/srv/second';
  await until('there is a snapshot', async () => (await snapshots()).length > 0);
  await addNodeUnit(machine, SECOND, { backend, basePath, rpcPort: 9955 });
  const trust = (await machine.ok('presync', 'keys', 'public', '/etc/presync/keys/snapshots')).trim();
  const ids = await Promise.all(['-u', '-g'].map((flag) => machine.ok('id', flag, 'polkadot')));
  const config = '/etc/presync/second.yaml';
  await writeConfig(machine, config, {
    basePath,
    store: 'file:///srv/presync',
    trust,
    genesis: DEV_GENESIS,
    owner: ids.map((id) => id.trim()).join(':'),
    unit: SECOND,
    rpc: 'http://127.0.0.1:9955',
    adminListen: 'none',
  });
  await machine.ok('presync', 'config', 'check', 'bootstrap', '--config', config);
  await dropIn(machine, 'presync-bootstrap.service', `[Service]\nEnvironment=PRESYNC_CONFIG=${config}\n`);
  await machine.ok('install', '--directory', '--owner=polkadot', '--group=polkadot', basePath);
  const gates = `/etc/systemd/system/${SECOND}.d`;
  await machine.ok('mkdir', gates);
  await machine.ok('ln', '--symbolic', '/usr/share/presync/node-gate.conf', `${gates}/10-presync.conf`);
  await machine.ok('systemctl', 'daemon-reload');
  // Which waits for the agent, and for the database.
  await machine.ok('systemctl', 'start', SECOND);
  await until('the second node is ready', async () =>
    (await machine.journal('presync-bootstrap.service')).some(({ message }) =>
      /^The node is ready at block \d+/.test(message),
    ),
  );
}

const PAUSES: Record<UnitPause, object> = {
  signal: { pause: 'signal', pidFile: '/run/polkadot/pid' },
  freeze: { pause: 'freeze', unit: NODE },
  stop: { pause: 'stop', unit: NODE },
};

async function configure(machine: Machine, settings: object): Promise<void> {
  await machine.ok('presync', 'keys', 'new', '--out', '/etc/presync/keys/snapshots');
  const config = {
    basePath: '/var/lib/polkadot',
    store: 'file:///srv/presync',
    signKey: '/etc/presync/keys/snapshots',
    rpc: RPC,
    genesis: DEV_GENESIS,
    pauseBudget: `${BUDGET_MS}ms`,
    minPeers: 0,
    anchorAge: '1s',
    ...settings,
  };
  await writeConfig(machine, '/etc/presync/presync.yaml', config);
  await machine.ok('presync', 'config', 'check', 'snapshotter');
}

/** JSON is YAML too. */
async function writeConfig(machine: Machine, path: string, config: object): Promise<void> {
  await writeFile(join(machine.root, path), `${JSON.stringify(config, null, 2)}\n`);
}

async function dropIn(machine: Machine, unit: string, text: string): Promise<void> {
  const folder = join(machine.root, 'etc/systemd/system', `${unit}.d`);
  await mkdir(folder);
  await writeFile(join(folder, 'test.conf'), text);
  await machine.ok('systemctl', 'daemon-reload');
}

function describe(
  machine: Machine,
  parts: Pick<SourceMachine, 'backend' | 'pause' | 'store' | 'state' | 'end'>,
): SourceMachine {
  const { store, state, pause } = parts;
  const ballast = join(state, 'ballast');
  return {
    ...parts,
    machine,
    isHeld: () => (pause === 'stop' ? machine.processes(NODE).length === 0 : machine.isPaused(NODE)),
    async snapshots() {
      const channels = join(store, 'snapshots/dev');
      if (!existsSync(channels)) return [];
      const numbers: number[] = [];
      for (const profile of readdirSync(channels))
        for (const sequence of readdirSync(join(channels, profile)))
          if (existsSync(join(channels, profile, sequence, 'manifest.json'))) numbers.push(Number(sequence));
      return numbers.toSorted((a, b) => a - b);
    },
    async fillState(leave) {
      const free = Number(execFileSync('df', ['--output=avail', '-k', state]).toString().split('\n')[1]);
      try {
        await writeFile(ballast, Buffer.alloc(Math.max(0, free - leave) * 1024, 1));
      } catch (error) {
        // presync was faster: all the same, there is no room.
        if (errnoOf(error) !== 'ENOSPC') throw error;
      }
    },
    emptyState: () => rm(ballast, { force: true }),
    async best() {
      const { stdout } = await machine.run(
        'journalctl',
        '--no-pager',
        `--unit=${NODE}`,
        '--lines=40',
        '--output=cat',
      );
      return Math.max(-1, ...[...stdout.matchAll(/Imported #(\d+)/g)].map(([, number]) => Number(number)));
    },
    metrics: () => fetchInside(machine, `${ADMIN}/metrics`),
    async events(since = 0) {
      const records: LogRecord[] = [];
      for (const { at, message } of await machine.journal(PRESYNC)) {
        if (at < since || !message.startsWith('{')) continue;
        records.push({ code: undefined, ...JSON.parse(message), at });
      }
      return records;
    },
    async longestHole(since) {
      const times = (await machine.journal(NODE))
        .filter(({ at, message }) => at >= since && /Imported #\d+/.test(message))
        .map(({ at }) => at);
      let seconds = 0;
      for (const [index, at] of [...times, now()].entries())
        seconds = Math.max(seconds, at - (index === 0 ? since : (times[index - 1] ?? at)));
      return { seconds, blocks: times.length };
    },
  };
}

/** A page from within the machine's network, which cannot be reached from outside. */
async function fetchInside(machine: Machine, url: string): Promise<string> {
  const program = `fetch(${JSON.stringify(url)}).then((r) => r.text()).then((t) => process.stdout.write(t), () => {})`;
  return (await machine.inNetwork(process.execPath, '-e', program)).stdout;
}

/** How long the node may take to start, and a snapshot to land, on a machine that is busy with other work. */
const PATIENCE_MS = 600_000;

/** Waits until something holds. */
export async function until(
  what: string,
  holds: () => Promise<boolean>,
  patienceMs = PATIENCE_MS,
): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`waited ${patienceMs / 1000} s until ${what}`);
    await sleep(500);
  }
}

/** When to strike: as soon as the node stands still, or that many milliseconds after the intent to pause it. */
export type Moment = 'paused' | number;

/** Waits for that moment of the next pause. Tells whether the node stands still. */
export async function untilMoment(source: SourceMachine, moment: Moment): Promise<boolean> {
  const deadline = performance.now() + PATIENCE_MS;
  const waiting = (): boolean =>
    moment === 'paused' ? !source.isHeld() : pendingIntents(source).length === 0;
  while (waiting()) {
    if (performance.now() > deadline) throw new Error('no pause began');
    // A pause takes milliseconds, so that is no place to sleep.
    await nextTurn();
  }
  if (moment !== 'paused') await sleep(moment);
  return source.isHeld();
}

/** Ids of the pauses whose intent is on disk, and which no deadman has ended. */
export function pendingIntents({ state }: SourceMachine): string[] {
  return readdirSync(state).flatMap((name) => /^pause-(.*)\.json$/.exec(name)?.[1] ?? []);
}

/** Adds to the `[Service]` part of the daemon's unit, and starts the daemon anew; so does what is returned, which takes it away again. */
export async function overrideUnit(
  { machine }: SourceMachine,
  ...lines: readonly string[]
): Promise<() => Promise<void>> {
  const folder = join(machine.root, 'etc/systemd/system', `${PRESYNC}.d`);
  const apply = async (): Promise<void> => {
    await machine.ok('systemctl', 'daemon-reload');
    await machine.ok('systemctl', 'restart', PRESYNC);
  };
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'override.conf'), ['[Service]', ...lines, ''].join('\n'));
  await apply();
  return async () => {
    await rm(folder, { recursive: true });
    await apply();
  };
}

/** What pauses have left in the state folder. */
export function leftByPauses({ state }: SourceMachine): string[] {
  return readdirSync(state).filter((name) => /^(?:pause|hook)-/.test(name));
}

/** The units of deadmen that stand by, or work. */
export async function deadmanUnits({ machine }: SourceMachine): Promise<string[]> {
  const listed = await machine.ok('systemctl', 'list-units', '--plain', '--no-legend', 'presync-deadman-*');
  return listed.split('\n').flatMap((line) => line.split(' ')[0] || []);
}

/** Of the processes of the daemon's unit. */
export const isPresync = (pid: number): boolean => commandOf(pid)[0]?.endsWith('/presync') === true;
export const isDeadman = (pid: number): boolean => commandOf(pid).includes('presync-deadman');

/** Empty for one that has ended. */
function commandOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** What the manifest of a snapshot says, signatures aside. */
export async function readManifest({ store, backend }: SourceMachine, sequence: number): Promise<string> {
  const path = join(store, 'snapshots/dev', backend, String(sequence), 'manifest.json');
  const { payload }: { payload: string } = JSON.parse(await readFile(path, 'utf8'));
  return Buffer.from(payload, 'base64').toString();
}
