import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { databaseHolder } from '../locks.ts';
import type { DatabaseRef, PauserOptions } from '../pause.ts';
import { createCgroupHold } from './cgroup-hold.ts';
import { assertOnlyNode, cgroupOf, processesIn, unifiedDir } from './cgroups.ts';
import { createContainerHold } from './container-hold.ts';
import { containerState } from './docker-engine.ts';
import { findNodeProcess } from './find-node.ts';
import type { Hold } from './hold.ts';
import { createHooksHold } from './hooks-hold.ts';
import { descendsFrom } from './proc.ts';
import { createProcessHold } from './process-hold.ts';
import { systemdRuns, unitState } from './systemctl.ts';
import { createUnitHold } from './unit-hold.ts';

type Find = (options: { id: string; signal: AbortSignal }) => Promise<Hold>;

/**
 * How each strategy finds the node and holds it. What the configuration lacks is told here, before anything is done.
 *
 * @throws CONFIG_INVALID
 */
export function finderOf(options: PauserOptions): Find {
  switch (options.strategy) {
    case 'none':
      throw new PresyncError('INTERNAL', 'the strategy "none" holds nobody');
    case 'signal':
      return async () => createProcessHold(await findNodeProcess(options));
    case 'freeze':
      return () => findFreezable(options);
    case 'stop': {
      const unit = given(options.unit, 'stop', '--unit', 'the node’s systemd unit');
      return () => findUnit(options, unit);
    }
    case 'docker': {
      const container = given(options.container, 'docker', '--container', 'the node’s container');
      return ({ signal }) => findContainer(options, container, signal);
    }
    case 'hooks': {
      const before = given(options.hookBefore, 'hooks', '--hook-before', 'a command');
      const after = given(options.hookAfter, 'hooks', '--hook-after', 'a command that undoes the other one');
      return async ({ id }) =>
        createHooksHold(
          {
            kind: 'hooks',
            before,
            after,
            timeoutMs: options.hookTimeoutMs ?? DEFAULT_HOOK_TIMEOUT_MS,
            view: options.hookView === undefined ? null : resolve(options.hookView),
            databases: options.databases.map(({ dir }) => dir),
            id,
            stateDir: resolve(options.stateDir),
          },
          options,
        );
    }
  }
}

export const DEFAULT_HOOK_TIMEOUT_MS = 120_000;

async function findFreezable(options: PauserOptions): Promise<Hold> {
  const { unit, holder } = options;
  if (unit === undefined) {
    const node = await findNodeProcess(options);
    return freezing(node.pid, node.pid);
  }
  assertSystemd('freeze', '--unit');
  const { mainPid, cgroup } = await unitState(unit);
  if (mainPid === undefined) throw notRunning(unit);
  assertHolds(holder?.pid, mainPid, `unit ${unit}`);
  const dir = cgroup === undefined ? undefined : unifiedDir(cgroup);
  if (dir === undefined || processesIn(dir).length === 0) return freezing(mainPid);
  assertOnlyNode(dir);
  return createUnitHold({ kind: 'unit', action: 'freeze', unit, dir });
}

/** The cgroup that the process is in. `alone` is the node's process when nobody says that all in the cgroup is the node's. */
function freezing(pid: number, alone?: number): Hold {
  const cgroup = cgroupOf(pid);
  if (cgroup === undefined) {
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `process ${pid} is in no cgroup of its own that could be frozen`,
      {
        hint: 'run the node as a systemd service on a machine with cgroup v2, or use --pause signal',
      },
    );
  }
  assertOnlyNode(cgroup.dir, alone);
  return createCgroupHold(cgroup);
}

async function findUnit(options: PauserOptions, unit: string): Promise<Hold> {
  assertSystemd('stop', '--unit');
  const { mainPid } = await unitState(unit);
  // One that an ended presync has stopped is started again before it is looked at whether it runs.
  if (mainPid !== undefined) {
    if (descendsFrom(process.pid, mainPid)) {
      throw new PresyncError('NODE_PAUSE_FAILED', `unit ${unit} is not stopped: presync itself runs in it`, {
        hint: 'check --unit: it must be the node’s',
      });
    }
    assertHolds(options.holder?.pid, mainPid, `unit ${unit}`);
  }
  return untilClosed(createUnitHold({ kind: 'unit', action: 'stop', unit }), options.databases);
}

async function findContainer(options: PauserOptions, container: string, signal: AbortSignal): Promise<Hold> {
  const { dockerSocket: socket = DEFAULT_DOCKER_SOCKET, dockerAction: action = 'pause' } = options;
  const { id, pid } = await containerState(socket, container, { signal });
  if (pid !== undefined) {
    if (descendsFrom(process.pid, pid)) {
      throw new PresyncError(
        'NODE_PAUSE_FAILED',
        `container ${container} is not paused: presync itself runs in it`,
        {
          hint: 'check --container: it must be the node’s',
        },
      );
    }
    assertHolds(options.holder?.pid, pid, `container ${container}`);
  }
  const hold = createContainerHold({ kind: 'container', action, socket, id });
  return action === 'stop' ? untilClosed(hold, options.databases) : hold;
}

const DEFAULT_DOCKER_SOCKET = '/var/run/docker.sock';

/** A stopped node must have let go of its databases before they are read. */
function untilClosed(hold: Hold, databases: readonly DatabaseRef[]): Hold {
  return {
    ...hold,
    hold: async (options) => {
      const deadline = performance.now() + options.timeoutMs;
      await hold.hold(options);
      for (const database of databases) {
        for (;;) {
          throwIfAborted(options.signal);
          const holder = await databaseHolder(database, options);
          if (holder === undefined) break;
          if (performance.now() > deadline) {
            const who = holder.pid === undefined ? 'a process' : `process ${holder.pid}`;
            throw new PresyncError('NODE_PAUSE_FAILED', `${who} still has ${database.dir} open`, {
              hint: 'look whether another node runs on this database',
            });
          }
          await sleep(20);
        }
      }
    },
  };
}

/** Refuses to hold one node while another one writes. */
function assertHolds(holder: number | undefined, main: number, what: string): void {
  if (holder === undefined || descendsFrom(holder, main)) return;
  throw new PresyncError(
    'NODE_PAUSE_FAILED',
    `${what} is not paused: the database is held open by process ${holder}, which is not its`,
    { hint: 'check which node runs on this database' },
  );
}

function assertSystemd(strategy: string, flag: string): void {
  if (systemdRuns()) return;
  throw new PresyncError('NODE_PAUSE_FAILED', `systemd does not run here, so ${flag} names nobody`, {
    hint:
      strategy === 'freeze'
        ? 'leave it out: the node’s cgroup is found by its process'
        : 'use --pause signal',
  });
}

function notRunning(unit: string): PresyncError {
  return new PresyncError('NODE_NOT_RUNNING', `unit ${unit} has no running process`, {
    hint: 'start the node; for one that shall stay down, use --pause none',
  });
}

function given(value: string | undefined, strategy: string, flag: string, what: string): string {
  if (value !== undefined) return value;
  throw new PresyncError('CONFIG_INVALID', `the pause strategy "${strategy}" needs ${flag}`, {
    hint: `give ${what} with ${flag}`,
  });
}
