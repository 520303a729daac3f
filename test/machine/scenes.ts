/** What may go wrong on a source machine, each with what must be seen of it. One table, for the test and for the campaign. */
import { execFileSync } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  BUDGET_MS,
  NODE,
  nodeState,
  now,
  PRESYNC,
  SLACK_MS,
  type SourceMachine,
  until,
  untilPause,
} from './source-machine.ts';

export interface Scene {
  name: string;
  /** Brings it about. What it gives is called when the node has been seen to be well, and heals what is left. */
  act(source: SourceMachine, offsetMs: number): Promise<(() => Promise<void>) | undefined>;
  /** What the journal of the daemon's unit must tell: a failed run's code, or a word of systemd's. */
  reason: { codes: RegExp } | { journal: RegExp };
  /** True where a snapshot may land all the same. */
  mayPass?: boolean;
  /** False where the node itself has to be started again, which takes as long as it takes. */
  nodeSurvives: boolean;
}

export interface SceneOutcome {
  scene: string;
  offsetMs: number;
  /** The longest time between two blocks, seconds. */
  hole: number;
  /** What was not as it must be. */
  violations: string[];
}

const start = (source: SourceMachine) => async (): Promise<void> => {
  await source.machine.ok('systemctl', 'start', PRESYNC);
};

/** Waits for a pause, and then a little: so that each part of it is hit in turn. */
async function inPause(source: SourceMachine, offsetMs: number): Promise<void> {
  await untilPause(source);
  await sleep(offsetMs);
}

export const SCENES: readonly Scene[] = [
  {
    name: 'the daemon is stopped in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('systemctl', 'stop', PRESYNC);
      return start(source);
    },
    reason: { journal: /Stopped presync-snapshotter/ },
    nodeSurvives: true,
  },
  {
    name: 'the daemon is restarted in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('systemctl', 'restart', PRESYNC);
      return undefined;
    },
    reason: { journal: /Stopped presync-snapshotter/ },
    nodeSurvives: true,
  },
  {
    name: 'the daemon is killed in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('systemctl', 'kill', '--kill-who=main', '--signal=KILL', PRESYNC);
      return undefined;
    },
    reason: { journal: /code=killed, status=9\/KILL/ },
    nodeSurvives: true,
  },
  {
    name: 'everything of the daemon is killed in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('systemctl', 'kill', '--kill-who=all', '--signal=KILL', PRESYNC);
      return undefined;
    },
    reason: { journal: /code=killed, status=9\/KILL/ },
    nodeSurvives: true,
  },
  {
    name: 'the package is installed again in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('dpkg', '--install', '/opt/presync.deb');
      return undefined;
    },
    reason: { journal: /Stopped presync-snapshotter/ },
    nodeSurvives: true,
  },
  {
    name: 'the node is killed in the pause',
    async act(source, offsetMs) {
      await inPause(source, offsetMs);
      await source.machine.ok('systemctl', 'kill', '--kill-who=main', '--signal=KILL', NODE);
      return undefined;
    },
    // Until it answers again.
    reason: { codes: /^NODE_/ },
    nodeSurvives: false,
  },
  {
    name: 'the disk of the state is full',
    async act(source, offsetMs) {
      // From none to some: a run may fail at each of its writes.
      return source.fillState(Math.floor(offsetMs / 10));
    },
    reason: { codes: /^(IO_FAILED|NO_ROOM|GATE_SHUT)$/ },
    mayPass: true,
    nodeSurvives: true,
  },
  {
    name: 'the store takes nothing',
    async act(source) {
      execFileSync('chattr', ['-R', '+i', source.store]);
      return async () => {
        execFileSync('chattr', ['-R', '-i', source.store]);
      };
    },
    reason: { codes: /^STORE_/ },
    nodeSurvives: true,
  },
];

/** Plays a scene on a machine that is well, and leaves it so. */
export async function playScene(
  source: SourceMachine,
  scene: Scene,
  offsetMs: number,
): Promise<SceneOutcome> {
  const violations: string[] = [];
  const { machine } = source;
  const since = now();
  const known = await source.snapshots();
  const heal = await scene.act(source, offsetMs);

  const best = await source.best();
  const back = until('the node makes blocks', async () => (await source.best()) > Math.max(best, 0));
  await back.catch(async (error: Error) =>
    violations.push(`${error.message}; its state is ${await nodeState(source)}`),
  );
  const told = async (): Promise<boolean> => {
    const { reason } = scene;
    if ('journal' in reason)
      return (await machine.journal(PRESYNC)).some(
        ({ at, message }) => at >= since && reason.journal.test(message),
      );
    const events = await source.events(since);
    const failed = events.filter(({ event }) => event === 'run.failed' || event === 'run.skipped');
    const codes = failed.map(({ code }) => code ?? '').filter((code) => reason.codes.test(code));
    if (codes.length === 0) return scene.mayPass === true && (await source.snapshots()).length > known.length;
    const metrics = await source.metrics();
    return codes.some((code) =>
      metrics.includes(`presync_snapshot_runs_total{outcome="${code === 'GATE_SHUT' ? 'skipped' : code}"}`),
    );
  };
  await until('log and metric tell the reason', told).catch((error: Error) => violations.push(error.message));
  await heal?.();

  await until('the next snapshot lands', async () => (await source.snapshots()).length > known.length).catch(
    (error: Error) => violations.push(error.message),
  );
  // A run takes what an ended one has left.
  await until('no intent to pause is left', async () =>
    (await readdir(source.state)).every((name) => !name.startsWith('pause-')),
  ).catch((error: Error) => violations.push(error.message));
  const { seconds: hole } = await source.longestHole(since);
  if (scene.nodeSurvives && hole > (BUDGET_MS + SLACK_MS) / 1000)
    violations.push(`the node made no block for ${hole.toFixed(1)} s`);
  return { scene: scene.name, offsetMs, hole: Math.round(hole * 10) / 10, violations };
}

/** Reads every snapshot back whole, and gives what is wrong with them. */
export async function verifyAll({ machine }: SourceMachine): Promise<string[]> {
  const key = (await machine.ok('presync', 'keys', 'public', '/etc/presync/keys/snapshots')).trim();
  const { code, stdout, stderr } = await machine.run('presync', 'verify', '--trust', key);
  return code === 0 ? [] : [`presync verify ended with ${code}:\n${stdout}\n${stderr}`];
}
