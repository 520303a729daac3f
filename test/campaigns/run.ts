/**
 * `npm run campaign -- NAME [--count N] [--seed N] [--backend rocksdb|paritydb]`: long, seeded trials with a report in test/results.
 * `conformance` and `store-check` try each store once, and take no options.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { conformanceCampaign } from './conformance.ts';
import { corruptionCampaign } from './corruption.ts';
import { killCampaign } from './kill.ts';
import { storeCheckCampaign } from './store-check.ts';

const RESULTS = resolve(import.meta.dirname, '../results');

interface Settings {
  count: number;
  seed: number;
  backends: ('rocksdb' | 'paritydb')[];
  dir: string;
  log: (line: string) => void;
}

type Trial = (options: {
  backend: Settings['backends'][number];
  count: number;
  seed: number;
  dir: string;
  log: Settings['log'];
}) => Promise<unknown>;

/** `count` is shared out over the backends; `kill` kills that many snapshots and that many restores. */
const CAMPAIGNS: Record<string, { count: number; trial: Trial }> = {
  kill: { count: 100, trial: killCampaign },
  corruption: { count: 300, trial: corruptionCampaign },
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
): Promise<void> {
  const { wrong, ...found } = await report(logLine);
  for (const line of wrong) logLine(line);
  process.exitCode = wrong.length === 0 ? 0 : 1;
  if (!UNDATED.has(name))
    await writeResult(name, {
      campaign: name,
      finished: new Date().toISOString(),
      node: process.version,
      ...found,
      wrong,
    });
}

function logLine(line: string): void {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
}

async function writeResult(name: string, document: unknown): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  await writeFile(join(RESULTS, `${name}.json`), `${JSON.stringify(document, null, 2)}\n`);
}

async function runAll(trial: Trial, { count, seed, backends, dir, log }: Settings): Promise<unknown[]> {
  const reports = [];
  for (const backend of backends) {
    reports.push(
      await trial({ backend, count: Math.ceil(count / backends.length), seed, dir: join(dir, backend), log }),
    );
  }
  return reports;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { count: { type: 'string' }, seed: { type: 'string' }, backend: { type: 'string' } },
});
const [name = ''] = positionals;
const report = REPORTS[name];
if (report !== undefined) {
  await runReport(name, report);
  process.exit();
}
const campaign = CAMPAIGNS[name];
if (campaign === undefined) {
  process.stderr.write(
    `There is no campaign "${name}". Try one of: ${Object.keys({ ...CAMPAIGNS, ...REPORTS }).join(', ')}\n`,
  );
  process.exit(2);
}
const count = Number(values.count ?? campaign.count);
const seed = Number(values.seed ?? 1);
const backends: Settings['backends'] =
  values.backend === 'rocksdb' || values.backend === 'paritydb' ? [values.backend] : ['rocksdb', 'paritydb'];
const dir = await mkdtemp(join(tmpdir(), `presync-${name}-`));
const started = Date.now();
try {
  const reports = await runAll(campaign.trial, { count, seed, backends, dir, log: logLine });
  const document = {
    campaign: name,
    count,
    seed,
    finished: new Date().toISOString(),
    seconds: Math.round((Date.now() - started) / 1000),
    node: process.version,
    cores: cpus().length,
    reports,
  };
  await writeResult(name, document);
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
} finally {
  await rm(dir, { recursive: true, force: true });
}
