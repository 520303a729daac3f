/** `npm run campaign -- NAME [--count N] [--seed N] [--backend rocksdb|paritydb]`: long, seeded trials with a report in test/results. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { corruptionCampaign } from './corruption.ts';
import { killCampaign } from './kill.ts';

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
const campaign = CAMPAIGNS[name];
if (campaign === undefined) {
  process.stderr.write(`There is no campaign "${name}". Try one of: ${Object.keys(CAMPAIGNS).join(', ')}\n`);
  process.exit(2);
}
const count = Number(values.count ?? campaign.count);
const seed = Number(values.seed ?? 1);
const backends: Settings['backends'] =
  values.backend === 'rocksdb' || values.backend === 'paritydb' ? [values.backend] : ['rocksdb', 'paritydb'];
const dir = await mkdtemp(join(tmpdir(), `presync-${name}-`));
const started = Date.now();
try {
  const log = (line: string): void => {
    process.stderr.write(`${new Date().toISOString()} ${line}\n`);
  };
  const reports = await runAll(campaign.trial, { count, seed, backends, dir, log });
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
  await mkdir(RESULTS, { recursive: true });
  await writeFile(join(RESULTS, `${name}.json`), `${JSON.stringify(document, null, 2)}\n`);
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
} finally {
  await rm(dir, { recursive: true, force: true });
}
