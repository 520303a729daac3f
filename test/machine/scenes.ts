/** What may go wrong on a source machine, each with what must be seen of it. One table, for the test and for the campaign. */
import { execFileSync } from 'node:child_process';
import {
  BUDGET_MS,
  isPresync,
  leftByPauses,
  type Moment,
  NODE,
  now,
  PRESYNC,
  SLACK_MS,
  type SourceMachine,
  until,
  untilMoment,
} from './source-machine.ts';

export interface Scene {
  name: string;
  /** Brings it about, and tells whether the node stood still. */
  act(source: SourceMachine, moment: Moment): Promise<boolean>;
  /** Heals what is left, when the node has been seen to be well. */
  heal?(source: SourceMachine): Promise<void>;
  /** What the journal of the daemon's unit must tell: a failed run's code, or a word of systemd's. */
  reason: { codes: RegExp } | { journal: RegExp };
  /** True where a snapshot may land all the same. */
  mayPass?: boolean;
  /** False where the node itself has to be started again, which takes as long as it takes. */
  nodeSurvives: boolean;
}

export interface SceneOutcome {
  scene: string;
  moment: Moment;
  /** The node stood still when it happened. */
  inPause: boolean;
  /** The longest time between two blocks, seconds. */
  hole: number;
  /** What was not as it must be. */
  violations: string[];
}

/** A scene in which a command is given in the pause. */
function commanded(
  name: string,
  command: readonly string[],
  more: Pick<Scene, 'heal'> & Partial<Scene> = {},
): Scene {
  return {
    name,
    async act(source, moment) {
      const inPause = await untilMoment(source, moment);
      await source.machine.ok(...command);
      return inPause;
    },
    reason: { journal: /Stopped presync-snapshotter/ },
    nodeSurvives: true,
    ...more,
  };
}

/** A scene in which processes are killed in the pause. */
function killed(
  name: string,
  unit: string,
  which: ((pid: number) => boolean) | undefined,
  more: Pick<Scene, 'reason' | 'nodeSurvives' | 'mayPass'>,
): Scene {
  return {
    name,
    async act(source, moment) {
      const inPause = await untilMoment(source, moment);
      source.machine.kill(unit, which);
      return inPause;
    },
    ...more,
  };
}

const KILLED = { reason: { journal: /code=killed, status=9\/KILL/ }, nodeSurvives: true };

export const SCENES: readonly Scene[] = [
  commanded('the daemon is stopped in the pause', ['systemctl', 'stop', PRESYNC], {
    heal: async ({ machine }) => {
      await machine.ok('systemctl', 'start', PRESYNC);
    },
  }),
  commanded('the daemon is restarted in the pause', ['systemctl', 'restart', PRESYNC]),
  commanded('the package is installed again in the pause', ['dpkg', '--install', '/opt/presync.deb']),
  killed('the daemon is killed in the pause', PRESYNC, isPresync, KILLED),
  killed('everything of the daemon is killed in the pause', PRESYNC, undefined, KILLED),
  killed('the node is killed in the pause', NODE, undefined, {
    // Until it answers again, which may be before the next run; and the pause may have ended just before the blow.
    reason: { codes: /^(NODE_|GATE_SHUT$)/ },
    mayPass: true,
    nodeSurvives: false,
  }),
  {
    name: 'the disk of the state is full',
    async act(source, moment) {
      // From nothing left to a little: so a run fails at each of its writes in turn.
      await source.fillState(moment === 'paused' ? 0 : Math.floor(moment / 10));
      return false;
    },
    heal: (source) => source.emptyState(),
    reason: { codes: /^(IO_FAILED|NO_ROOM|GATE_SHUT)$/ },
    mayPass: true,
    nodeSurvives: true,
  },
  {
    name: 'the store takes nothing',
    async act({ store }) {
      execFileSync('chattr', ['-R', '+i', store]);
      return false;
    },
    heal: async ({ store }) => {
      execFileSync('chattr', ['-R', '-i', store]);
    },
    reason: { codes: /^STORE_/ },
    nodeSurvives: true,
  },
];

/** Plays a scene on a machine that is well, and leaves it so. */
export async function playScene(source: SourceMachine, scene: Scene, moment: Moment): Promise<SceneOutcome> {
  const violations: string[] = [];
  const { machine } = source;
  const since = now();
  const known = await source.snapshots();
  const inPause = await scene.act(source, moment);

  const best = await source.best();
  const back = until('the node makes blocks', async () => (await source.best()) > Math.max(best, 0));
  await back.catch((error: Error) =>
    violations.push(`${error.message}; it is ${source.isHeld() ? 'still' : 'not'} paused`),
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
  await scene.heal?.(source);

  const landed = await source.snapshots();
  await until('the next snapshot lands', async () => (await source.snapshots()).length > landed.length).catch(
    (error: Error) => violations.push(error.message),
  );
  // A run takes what an ended one has left.
  await until('no intent to pause is left', async () => leftByPauses(source).length === 0).catch(
    (error: Error) => violations.push(error.message),
  );
  const { seconds: hole } = await source.longestHole(since);
  if (scene.nodeSurvives && hole > (BUDGET_MS + SLACK_MS) / 1000)
    violations.push(`the node made no block for ${hole.toFixed(1)} s`);
  return { scene: scene.name, moment, inPause, hole: Math.round(hole * 10) / 10, violations };
}

/** Reads every snapshot back whole, and gives what is wrong with them. */
export async function verifyAll({ machine }: SourceMachine): Promise<string[]> {
  const key = (await machine.ok('presync', 'keys', 'public', '/etc/presync/keys/snapshots')).trim();
  const { code, stdout, stderr } = await machine.run('presync', 'verify', '--trust', key);
  return code === 0 ? [] : [`presync verify ended with ${code}:\n${stdout}\n${stderr}`];
}
