/**
 * A source node as it is installed: systemd, the real node under its own user, presync from the Debian package. First a
 * daemon with a schedule of every minute that is left alone, then scenes of trouble at random instants.
 */
import { join } from 'node:path';
import { playScene, SCENES, type SceneOutcome, verifyAll } from '../machine/scenes.ts';
import { BUDGET_MS, now, SLACK_MS, startSource, until } from '../machine/source-machine.ts';
import { seededRandom } from '../support/corruption.ts';
import type { FixtureBackend } from '../support/real-node.ts';

export interface MachineOptions {
  backend: FixtureBackend;
  /** Scenes that are played, one after the other through the table. */
  count: number;
  seed: number;
  /** Scratch folder. */
  dir: string;
  log: (line: string) => void;
}

export interface MachineReport {
  backend: FixtureBackend;
  /** Minutes of the schedule, and snapshots that landed in them. */
  quiet: { minutes: number; snapshots: number; longestHoleSeconds: number };
  scenes: { scene: string; played: number; inPause: number; longestHoleSeconds: number }[];
  violations: string[];
}

const QUIET_MINUTES = 10;

/** From before the pause to well after it, milliseconds. */
const LATEST_MS = 400;

export async function machineCampaign(options: MachineOptions): Promise<MachineReport> {
  const { backend, count, seed, dir, log } = options;
  const random = seededRandom(seed);
  const violations: string[] = [];
  const quiet = await quietMinutes(options, violations);
  const outcomes: SceneOutcome[] = [];
  const source = await startSource({ backend, dir: join(dir, 'scenes'), schedule: '*/10 * * * * *' });
  try {
    for (let n = 0; n < count; n++) {
      const scene = SCENES[n % SCENES.length];
      if (scene === undefined) break;
      // Every other one just when the node stands still.
      const moment = Math.floor(n / SCENES.length) % 2 === 0 ? 'paused' : Math.floor(random() * LATEST_MS);
      const outcome = await playScene(source, scene, moment);
      outcomes.push(outcome);
      const what = `${outcome.scene}, ${moment === 'paused' ? moment : `${moment} ms after the intent`}`;
      log(`${backend} ${n + 1}/${count} ${what}: hole ${outcome.hole} s`);
      for (const violation of outcome.violations) log(`  ${violation}`);
      violations.push(...outcome.violations.map((text) => `${what}: ${text}`));
    }
    violations.push(...(await verifyAll(source)));
  } finally {
    await source.end();
  }
  const scenes = SCENES.map(({ name }) => {
    const played = outcomes.filter(({ scene }) => scene === name);
    return {
      scene: name,
      played: played.length,
      inPause: played.filter(({ inPause }) => inPause).length,
      longestHoleSeconds: Math.max(0, ...played.map(({ hole }) => hole)),
    };
  });
  return { backend, quiet, scenes, violations };
}

async function quietMinutes(
  { backend, dir, log }: MachineOptions,
  violations: string[],
): Promise<MachineReport['quiet']> {
  const source = await startSource({ backend, dir: join(dir, 'quiet'), schedule: '* * * * *' });
  try {
    const since = now();
    await until(
      `${QUIET_MINUTES} minutes are over`,
      async () => now() - since > QUIET_MINUTES * 60 + 20,
      QUIET_MINUTES * 120_000,
    );
    const snapshots = (await source.snapshots()).length;
    const { seconds } = await source.longestHole(since);
    const longestHoleSeconds = Math.round(seconds * 10) / 10;
    log(
      `${backend}: ${snapshots} snapshots in ${QUIET_MINUTES} minutes, longest hole ${longestHoleSeconds} s`,
    );
    if (snapshots < QUIET_MINUTES) violations.push(`${snapshots} snapshots in ${QUIET_MINUTES} minutes`);
    if (seconds > (BUDGET_MS + SLACK_MS) / 1000) violations.push(`the node made no block for ${seconds} s`);
    for (const { level, msg } of await source.events(since))
      if (level === 'error') violations.push(`an error in a quiet time: ${msg}`);
    violations.push(...(await verifyAll(source)));
    return { minutes: QUIET_MINUTES, snapshots, longestHoleSeconds };
  } finally {
    await source.end();
  }
}
