/** Networks of namespaces, for machines and servers that are to reach each other and nothing else. */
import { type ChildProcess, execFile, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** A namespace with loopback and one interface. */
export interface Host {
  /** For systemd-nspawn's `--network-namespace-path` and nsenter's `--net`. */
  namespace: string;
  address: string;
  /** Starts a program of this machine in it. */
  spawn(command: readonly string[], options: SpawnOptions): ChildProcess;
  /** True when something listens there on that port. */
  listens(port: number): Promise<boolean>;
  /** Cuts it off the others, or brings it back. */
  setLink(state: 'up' | 'down'): void;
}

export interface Network {
  /** Where servers stand. */
  hub: Host;
  /** Another machine in it. */
  join(): Host;
  /** Takes it away. Processes in it have to be ended before. May be called twice. */
  end(): void;
}

/** RFC 5737: addresses for documentation, which nobody has. */
const PREFIX = '192.0.2';
const START_MS = 60_000;

/** Makes a network whose hosts are joined by a bridge in the hub's namespace. Needs root and iproute2. */
export function createNetwork(): Network {
  const name = `presync-${randomBytes(3).toString('hex')}`;
  const spaces: string[] = [];
  const add = (space: string): void => {
    ip('netns', 'add', space);
    spaces.push(space);
    ip('-n', space, 'link', 'set', 'lo', 'up');
  };
  const end = (): void => {
    for (const space of spaces.splice(0)) ip('netns', 'del', space);
  };
  try {
    add(name);
    ip('-n', name, 'link', 'add', 'lan', 'type', 'bridge');
    ip('-n', name, 'addr', 'add', `${PREFIX}.1/24`, 'dev', 'lan');
    ip('-n', name, 'link', 'set', 'lan', 'up');
  } catch (error) {
    end();
    throw error;
  }
  return {
    hub: describe(name, `${PREFIX}.1`, 'lan'),
    join() {
      const number = spaces.length + 1;
      const [space, port] = [`${name}-${number}`, `port${number}`];
      add(space);
      ip('-n', name, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'lan', 'netns', space);
      ip('-n', name, 'link', 'set', port, 'master', 'lan', 'up');
      ip('-n', space, 'addr', 'add', `${PREFIX}.${number}/24`, 'dev', 'lan');
      ip('-n', space, 'link', 'set', 'lan', 'up');
      return describe(space, `${PREFIX}.${number}`, 'lan');
    },
    end,
  };
}

function describe(space: string, address: string, device: string): Host {
  const namespace = `/run/netns/${space}`;
  const enter = ['nsenter', `--net=${namespace}`];
  return {
    namespace,
    address,
    spawn: ([program = '', ...args], options) =>
      spawn(enter[0] ?? '', [...enter.slice(1), program, ...args], options),
    async listens(port) {
      const program = `require('node:net').connect(${port}, '${address}').on('connect', () => process.exit(0)).on('error', () => process.exit(1))`;
      return promisify(execFile)('nsenter', [`--net=${namespace}`, process.execPath, '-e', program]).then(
        () => true,
        () => false,
      );
    },
    setLink: (state) => ip('-n', space, 'link', 'set', device, state),
  };
}

/** Waits until a server that was started there listens. */
export async function untilListening(
  host: Host,
  port: number,
  server: ChildProcess,
  name: string,
): Promise<void> {
  for (const until = Date.now() + START_MS; Date.now() < until; ) {
    if (server.exitCode !== null || server.signalCode !== null)
      throw new Error(`${name} ended with ${server.exitCode ?? server.signalCode} before it listened`);
    if (await host.listens(port)) return;
    await sleep(100);
  }
  throw new Error(`${name} did not listen within ${START_MS / 1000} s`);
}

function ip(...args: string[]): void {
  execFileSync('ip', args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
}
