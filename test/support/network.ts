/** Networks of namespaces, for machines and servers that are to reach each other and nothing else. */
import { type ChildProcess, execFile, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** A network namespace with loopback and one interface. */
export interface Host {
  /** For systemd-nspawn's `--network-namespace-path` and nsenter's `--net`. */
  namespace: string;
  address: string;
  /** Starts a program of this machine in it. */
  spawn(command: readonly string[], options: SpawnOptions): ChildProcess;
  /** True when something listens there on that port of its address. */
  listens(port: number): Promise<boolean>;
  /** Cuts it off the others, or brings it back. */
  setLink(state: 'up' | 'down'): void;
}

export interface Network {
  /** Where servers stand. */
  hub: Host;
  /** Another machine in it. */
  join(): Promise<Host>;
  /** Lets it go; it is gone when the last process in it has ended. May be called twice. */
  end(): Promise<void>;
}

/** RFC 5737: addresses for documentation, which nobody has. */
const PREFIX = '192.0.2';
const DEVICE = 'lan';
const START_MS = 60_000;

/** Makes a network whose hosts are joined by a bridge in the hub. It goes with whoever made it. Needs root and iproute2. */
export async function createNetwork(): Promise<Network> {
  const spaces: ChildProcess[] = [];
  const add = async (): Promise<{ space: number; address: string }> => {
    const space = await makeNamespace();
    spaces.push(space);
    const { pid = 0 } = space;
    ip(pid, 'link', 'set', 'lo', 'up');
    return { space: pid, address: `${PREFIX}.${spaces.length}` };
  };
  const { space: hub, address } = await add();
  ip(hub, 'link', 'add', DEVICE, 'type', 'bridge');
  ip(hub, 'addr', 'add', `${address}/24`, 'dev', DEVICE);
  ip(hub, 'link', 'set', DEVICE, 'up');
  return {
    hub: describe(hub, address),
    async join() {
      const host = await add();
      const port = `port${spaces.length}`;
      ip(hub, 'link', 'add', port, 'type', 'veth', 'peer', 'name', DEVICE, 'netns', String(host.space));
      ip(hub, 'link', 'set', port, 'master', DEVICE, 'up');
      ip(host.space, 'addr', 'add', `${host.address}/24`, 'dev', DEVICE);
      ip(host.space, 'link', 'set', DEVICE, 'up');
      return describe(host.space, host.address);
    },
    async end() {
      for (const space of spaces.splice(0)) {
        space.stdin?.end();
        await once(space, 'close');
      }
    },
  };
}

/** A process that holds a network namespace for as long as its standard input is open. */
async function makeNamespace(): Promise<ChildProcess> {
  const holder = spawn('unshare', ['--net', 'sh', '-c', 'echo ready; exec cat'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true,
  });
  const [first] = await Promise.race([once(holder.stdout, 'data'), once(holder, 'close')]);
  if (!Buffer.isBuffer(first))
    throw new Error(`no network namespace could be made: unshare ended with ${first}`);
  return holder;
}

function describe(space: number, address: string): Host {
  const namespace = `/proc/${space}/ns/net`;
  const enter = [`--net=${namespace}`];
  return {
    namespace,
    address,
    spawn: (command, options) => spawn('nsenter', [...enter, ...command], options),
    async listens(port) {
      const program = `require('node:net').connect(${port}, '${address}').on('connect', () => process.exit(0)).on('error', () => process.exit(1))`;
      return promisify(execFile)('nsenter', [...enter, process.execPath, '-e', program]).then(
        () => true,
        () => false,
      );
    },
    setLink: (state) => ip(space, 'link', 'set', DEVICE, state),
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

/** Runs iproute2's command in the namespace of a process. */
function ip(space: number, ...args: string[]): void {
  execFileSync('nsenter', [`--net=/proc/${space}/ns/net`, 'ip', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
}
