/** `presync store check` on every kind of store, whole and with each permission missing in turn: what it says, kept as a report. */
import { presync } from '../support/presync.ts';
import { CHECK_SCENES, type CheckScene } from '../support/store-check-scenes.ts';

export interface CheckedScene {
  store: string;
  scene: string;
  command: string;
  exit: number | null;
  missing: readonly string[];
  text: string[];
  /** Of what `--json` gives. */
  problems: unknown;
}

export interface StoreCheckReport {
  scenes: CheckedScene[];
  wrong: string[];
}

export async function storeCheckCampaign(log: (line: string) => void): Promise<StoreCheckReport> {
  const report: StoreCheckReport = { scenes: [], wrong: [] };
  for (const { kind, needs, open } of CHECK_SCENES) {
    if (!needs.found) {
      report.wrong.push(`${kind} was not tried: it needs ${needs.what}`);
      continue;
    }
    const cleanUps: (() => Promise<unknown>)[] = [];
    try {
      for (const scene of await open((cleanUp) => void cleanUps.unshift(cleanUp))) {
        const checked = await checkScene(kind, scene, report.wrong);
        report.scenes.push(checked);
        log(`${kind}: ${scene.name}: exit ${checked.exit}`);
      }
    } finally {
      for (const cleanUp of cleanUps) await cleanUp();
    }
  }
  return report;
}

async function checkScene(
  kind: string,
  { name, args, env, user, exit, missing }: CheckScene,
  wrong: string[],
): Promise<CheckedScene> {
  const command = ['store', 'check', ...args];
  const text = await presync(command, { env, user });
  const json = await presync([...command, '--json'], { env, user });
  for (const outcome of [text, json]) {
    if (outcome.code !== exit) wrong.push(`${kind}: ${name}: exit ${outcome.code}, not ${exit}`);
    for (const one of missing)
      if (!outcome.stdout.includes(one)) wrong.push(`${kind}: ${name}: ${one} is not named`);
  }
  return {
    store: kind,
    scene: name,
    command: `presync ${command.join(' ')}`,
    exit: text.code,
    missing,
    text: text.stdout.split('\n').filter((line) => line !== ''),
    problems: problemsOf(json.json),
  };
}

function problemsOf(document: unknown): unknown {
  return typeof document === 'object' && document !== null && 'problems' in document
    ? document.problems
    : document;
}
