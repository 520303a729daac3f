/**
 * `npm run campaign -- NAME [--count N] [--seed N] [--backend rocksdb|paritydb] [--store NAME] [--strategy NAME]`: long, seeded trials with a report in
 * test/results. `conformance` and `store-check` try each store once, and take no options.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { FixtureBackend } from '../support/real-node.ts';
import { conformanceCampaign } from './conformance.ts';
import { corruptionCampaign } from './corruption.ts';
import { FAULT_STORES } from './fault-stores.ts';
import { faultsCampaign } from './faults.ts';
import { INTERLEAVING_STORES, interleavingsCampaign } from './interleavings.ts';
import { killCampaign } from './kill.ts';
import { machineCampaign } from './machine.ts';
import { pausesCampaign } from './pauses.ts';
import { PUBLISHER_STORES, publishersCampaign } from './publishers.ts';
import { storeCheckCampaign } from './store-check.ts';
import { UNIT_PAUSES, unitPausesCampaign } from './unit-pauses.ts';

const RESULTS = resolve(import.meta.dirname, '../results');
const BACKENDS = ['rocksdb', 'paritydb'] as const;

interface Settings {
  count: number;
  seed: number;
  /** What the command line asks for; undefined for all. */
  backend: string | undefined;
  store: string | undefined;
  strategy: string | undefined;
  dir: string;
  log: (line: string) => void;
}

interface Campaign {
  count: number;
  run(settings: Settings): Promise<object[]>;
}

/** One after the other, each in a folder of its own. */
async function each<T extends string, R extends object>(
  all: readonly T[],
  wanted: string | undefined,
  dir: string,
  work: (one: T, dir: string) => Promise<R>,
): Promise<R[]> {
  const chosen = all.filter((one) => wanted === undefined || one === wanted);
  if (chosen.length === 0) throw new UsageError(`There is no "${wanted}". Try one of: ${all.join(', ')}`);
  const reports: R[] = [];
  for (const one of chosen) {
    const own = join(dir, one);
    reports.push(await work(one, own));
    await rm(own, { recursive: true, force: true });
  }
  return reports;
}

class UsageError extends Error {}

type BackendTrial = (options: {
  backend: FixtureBackend;
  count: number;
  seed: number;
  dir: string;
  log: Settings['log'];
}) => Promise<object>;

/** `count` is shared out over the backends. */
function byBackend(count: number, trial: BackendTrial): Campaign {
  return {
    count,
    run: ({ count: wanted, seed, backend, dir, log }) => {
      const share = backend === undefined ? Math.ceil(wanted / BACKENDS.length) : wanted;
      return each(BACKENDS, backend, dir, (one, own) =>
        trial({ backend: one, count: share, seed, dir: own, log }),
      );
    },
  };
}

const CAMPAIGNS: Record<string, Campaign> = {
  /** That many snapshots are killed, and that many restores. */
  kill: byBackend(100, killCampaign),
  corruption: byBackend(300, corruptionCampaign),
  /** `count` for each strategy. */
  pauses: {
    count: 40,
    run: ({ count, seed, backend = 'rocksdb', dir, log }) => {
      const known = BACKENDS.find((one) => one === backend);
      if (known === undefined)
        throw new UsageError(`There is no "${backend}". Try one of: ${BACKENDS.join(', ')}`);
      return pausesCampaign({ backend: known, count, seed, dir, log });
    },
  },
  /** Needs what test/machine needs; see there. */
  machine: byBackend(160, machineCampaign),
  /** `count` for each strategy and backend. Needs what test/machine needs. */
  'unit-pauses': {
    count: 40,
    run: async ({ count, seed, backend, strategy, dir, log }) => {
      const reports = await each(UNIT_PAUSES, strategy, dir, (held, folder) =>
        each(BACKENDS, backend, folder, (one, own) =>
          unitPausesCampaign({ strategy: held, backend: one, count, seed, dir: own, log }),
        ),
      );
      return reports.flat();
    },
  },
  /** `count` for each store. */
  faults: {
    count: 200,
    run: ({ count, seed, backend, store, dir, log }) =>
      each(FAULT_STORES, store, dir, (one, own) =>
        faultsCampaign({
          store: one,
          count,
          seed,
          dir: own,
          backends: backend === undefined ? undefined : BACKENDS.filter((known) => known === backend),
          log,
        }),
      ),
  },
  /** `count` for the memory store; `--store s3` runs 200 unless told otherwise, on a real server. */
  interleavings: {
    count: 10_000,
    run: ({ count, seed, store = 'memory', dir, log }) =>
      each(INTERLEAVING_STORES, store, dir, (one) =>
        interleavingsCampaign({
          store: one,
          count: one === 's3' && count === 10_000 ? 200 : count,
          seed,
          processes: cpus().length,
          log,
        }),
      ),
  },
  publishers: {
    count: 100,
    run: ({ count, store, dir, log }) =>
      each(PUBLISHER_STORES, store, dir, (one, own) =>
        publishersCampaign({ store: one, count, dir: own, log }),
      ),
  },
};

/** Campaigns that have nothing to repeat. `wrong` says what is not as it must be. */
const REPORTS: Record<string, (log: Settings['log']) => Promise<{ wrong: string[] }>> = {
  conformance: conformanceCampaign,
  'store-check': storeCheckCampaign,
};

/** The conformance report is written as the test writes it, without a date, so that it changes only when a result does. */
const UNDATED = new Set(['conformance']);

async function runReport(
  name: string,
  report: (log: Settings['log']) => Promise<{ wrong: string[] }>,
): Promise<number> {
  const { wrong, ...found } = await report(log);
  for (const line of wrong) log(line);
  const finished = new Date().toISOString();
  if (!UNDATED.has(name))
    await writeResult(name, { campaign: name, finished, node: process.version, ...found, wrong });
  return wrong.length === 0 ? 0 : 1;
}

function log(line: string): void {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
}

function resultPath(name: string): string {
  return join(RESULTS, `${name}.json`);
}

async function writeResult(name: string, document: object): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  await writeFile(resultPath(name), `${JSON.stringify(document, null, 2)}\n`);
}

/** With the reports of an earlier run on what this one left out: a long campaign may be run store by store. */
async function withEarlier(path: string, reports: object[], partial: boolean): Promise<object[]> {
  if (!partial) return reports;
  const subject = (report: object): string =>
    ['store', 'backend', 'strategy'].map((name) => Reflect.get(report, name)).join(' ');
  const done = new Set(reports.map(subject));
  const earlier = await readFile(path, 'utf8').then(
    (text): object[] => JSON.parse(text).reports,
    () => [],
  );
  return [...earlier.filter((report) => !done.has(subject(report))), ...reports];
}

function hasViolations(report: object): boolean {
  const violations: unknown = Reflect.get(report, 'violations');
  return Array.isArray(violations) && violations.length > 0;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      count: { type: 'string' },
      seed: { type: 'string' },
      backend: { type: 'string' },
      store: { type: 'string' },
      strategy: { type: 'string' },
    },
  });
  const [name = ''] = positionals;
  const report = Object.hasOwn(REPORTS, name) ? REPORTS[name] : undefined;
  if (report !== undefined) return runReport(name, report);
  const campaign = Object.hasOwn(CAMPAIGNS, name) ? CAMPAIGNS[name] : undefined;
  if (campaign === undefined) {
    const known = Object.keys({ ...CAMPAIGNS, ...REPORTS }).join(', ');
    throw new UsageError(`There is no campaign "${name}". Try one of: ${known}`);
  }
  const { backend, store, strategy } = values;
  const count = Number(values.count ?? campaign.count);
  const seed = Number(values.seed ?? 1);
  const dir = await mkdtemp(join(tmpdir(), `presync-${name}-`));
  const started = Date.now();
  try {
    const reports = await campaign.run({ count, seed, backend, store, strategy, dir, log });
    const partial = [backend, store, strategy].some((part) => part !== undefined);
    const document = {
      campaign: name,
      count,
      seed,
      finished: new Date().toISOString(),
      seconds: Math.round((Date.now() - started) / 1000),
      node: process.version,
      cores: cpus().length,
      reports: await withEarlier(resultPath(name), reports, partial),
    };
    await writeResult(name, document);
    process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
    return reports.some(hasViolations) ? 1 : 0;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}
