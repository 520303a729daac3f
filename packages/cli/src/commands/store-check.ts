import type { CommandConfig } from '@presync/runtime/commands';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { readStoreAccess, type StoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { type CaseResult, type LeftObject, leftBehind, runConformance } from '@presync/store/conformance';
import { amountsOf, costsOf, type Usage } from '@presync/store/cost';
import type { ObjectStore } from '@presync/store/object-store';
import { checkReader, checkWriter, missingFor, type Permissions } from '@presync/store/permissions';
import { checkReaderPromises } from '@presync/store/reader-promises';
import { measureClockSkew } from '@presync/store/server-time';
import { measureGets, measureSpeed, type Readable, type SpeedOptions } from '@presync/store/speed';
import { parseStoreUrl, type StoreUrl } from '@presync/store/store-url';
import { boundedConcurrency } from '@presync/transfer/concurrency-limit';
import { openRepository } from '@presync/transfer/repository';
import type { CommandContext, CommandHandler } from '../command.ts';
import { knownChunks } from '../lib/known-chunks.ts';
import { writeReport } from '../lib/report.ts';
import { textOf } from '../lib/store-check-text.ts';
import {
  lackedBy,
  problemsOf,
  type StoreFindings,
  type StoreProblem,
  type StoreWarning,
  summaryOf,
  warningsOf,
} from '../lib/store-findings.ts';

/** Promises that are put to the test at a time: most of them wait for the store. */
const PROMISES_AT_A_TIME = 4;

/** Calls at a time at which the speed is measured, as far as presync itself would go. */
const CONCURRENCIES = [1, 4, 16, 64];

const DAY_MS = 24 * 60 * 60 * 1000;

type Config = CommandConfig<'store check'>;

/** What is found out, bit by bit, so that what was found before an error is told too. */
type Findings = { -readonly [K in keyof StoreFindings]: StoreFindings[K] } & { left: LeftObject[] };

interface Scene {
  config: Config;
  url: StoreUrl;
  access: StoreAccess;
  store: ObjectStore;
  chunkSize: number;
  context: CommandContext<'store check'>;
  signal: AbortSignal;
}

export const storeCheck: CommandHandler<'store check'> = async (context) => {
  const { config, log, progress, signal } = context;
  const url = parseStoreUrl(config.store);
  const access = await readStoreAccess(config);
  const metrics = { observe: ({ bytes }: { bytes: number }): void => progress.advance(bytes) };
  const store = await composeStore(config.store, { access, metrics, signal });
  const found: Findings = {
    location: store.location,
    who: whoOf(config, store),
    channelNamed: config.channel !== undefined,
    permissions: undefined,
    promises: undefined,
    clock: undefined,
    speed: undefined,
    cost: undefined,
    left: [],
    errors: [],
    untried: [],
  };
  progress.start({ label: `Check of ${store.location}` });
  try {
    const { chunkSize, error } = await chunkSizeOf(store, context);
    await examine(found, { config, url, access, store, chunkSize, context, signal }, error);
  } catch (error) {
    if (found.left.length > 0) {
      log.warn('check.left_behind', leftBehind(found.left).message, {
        keys: found.left.map(({ key }) => key),
      });
    }
    throw error;
  } finally {
    progress.finish();
    await store.close();
  }
  const [problems, warnings] = [problemsOf(found), warningsOf(found)];
  const json = documentOf(found, problems, warnings);
  await writeReport(config.report, json);
  return {
    json,
    text: textOf(found, problems, warnings),
    exitCode: problems.length === 0 ? 0 : Math.min(...problems.map(({ exit }) => exit)),
  };
};

function whoOf({ as }: Config, store: ObjectStore): StoreFindings['who'] {
  if (store.traits.writable) return as ?? 'writer';
  if (as !== 'writer') return 'reader';
  throw new PresyncError(
    'STORE_READ_ONLY',
    `${store.location} can only be read, so no writer can be checked`,
    {
      hint: 'leave --as out; to check a writer, name the bucket itself',
    },
  );
}

/** Of the repository that is there, or of the one that would be made. */
async function chunkSizeOf(
  store: ObjectStore,
  { config, loaded, signal }: CommandContext<'store check'>,
): Promise<{ chunkSize: number; error: PresyncError | undefined }> {
  const named = loaded.explained.some(
    ({ name, source }) => name === 'chunkSize' && source.kind !== 'default',
  );
  if (named) return { chunkSize: config.chunkSize, error: undefined };
  try {
    return { chunkSize: (await openRepository(store, { signal })).chunkSize, error: undefined };
  } catch (error) {
    // What else is wrong is found out by what follows.
    if (!isPresyncError(error) || error.code === 'ABORTED' || error.code === 'STORE_UNREACHABLE') throw error;
    return { chunkSize: config.chunkSize, error: error.exitCode === 4 ? error : undefined };
  }
}

async function examine(found: Findings, scene: Scene, damage: PresyncError | undefined): Promise<void> {
  const { config, url, access, store, context, signal } = scene;
  const { progress } = context;
  if (damage !== undefined) found.errors = [damage];
  progress.note('clock');
  found.clock = await measureClockSkew(config.store, { access, signal });
  if (config.databaseSize !== undefined) {
    const usage = usageOf(config, config.databaseSize, scene.chunkSize);
    found.cost = { usage, amounts: amountsOf(usage), costs: costsOf(usage, url) };
  }
  progress.note('permissions');
  const check = found.who === 'writer' ? checkWriter : checkReader;
  const permissions = await part(found, signal, () => check(store, { url, onLeft: keepIn(found), signal }));
  if (permissions === undefined) return;
  found.permissions = permissions;
  const missing = missingFor(found.who, permissions.findings).filter(
    ({ permission }) => found.who === 'writer' || permission === 'get',
  );
  if (missing.length > 0) {
    found.untried = ['promises and speed were not tried, since not everything that it takes is allowed'];
    return;
  }
  if (found.who === 'writer') await examineWriter(found, scene);
  else await examineReader(found, permissions, scene);
}

async function examineWriter(found: Findings, scene: Scene): Promise<void> {
  const { config, store, context, signal } = scene;
  const { progress } = context;
  let tried = 0;
  const onResult = (result: CaseResult): void => {
    progress.note(`promise ${++tried}: ${result.name}`);
    keepIn(found)(result.left);
  };
  found.promises = await runConformance(store, { concurrency: PROMISES_AT_A_TIME, onResult, signal });
  if (config.speedTime === 0) return;
  await part(found, signal, async () => {
    const speed = await measureSpeed(store, { ...speedOptions(scene), onLeft: keepIn(found) });
    found.speed = { objectBytes: scene.chunkSize, ...speed };
  });
}

async function examineReader(
  found: Findings,
  { objects, findings }: Permissions,
  scene: Scene,
): Promise<void> {
  const { config, store, signal } = scene;
  const mayList = findings.some(({ permission, outcome }) => permission === 'list' && outcome === 'granted');
  found.promises = await checkReaderPromises(store, { objects, mayList, signal });
  if (config.speedTime === 0) return;
  await part(found, signal, async () => {
    const chunks = await chunksToRead(objects, scene);
    if (chunks.length === 0) {
      found.untried = [
        'the speed was not measured, since no chunks are known to read; for a store without a listing, give --channel',
      ];
      return;
    }
    const objectBytes = Math.max(...chunks.map(({ size }) => size));
    const get = await measureGets(store, chunks, speedOptions(scene));
    found.speed = { objectBytes, put: undefined, get };
  });
}

async function chunksToRead(
  objects: readonly Readable[],
  { config, store, chunkSize, signal }: Scene,
): Promise<readonly Readable[]> {
  const listed = objects.filter(({ key, size }) => key.startsWith('chunks/') && size <= 2 * chunkSize);
  if (listed.length > 0 || config.channel === undefined) return listed;
  return knownChunks(store, config.channel, signal);
}

function speedOptions({ config, chunkSize, context, signal }: Scene): SpeedOptions {
  const levels = CONCURRENCIES.map((wanted) => boundedConcurrency(wanted, chunkSize));
  return {
    objectBytes: chunkSize,
    concurrencies: [...new Set(levels)],
    budgetMs: config.speedTime,
    onPoint: (operation, { concurrency }) =>
      context.progress.note(`${operation} at ${concurrency} at a time`),
    signal,
  };
}

function keepIn({ left }: Findings): (more: readonly LeftObject[]) => void {
  return (more) => void left.push(...more);
}

/** A part of the check: what it throws is told beside what the other parts have found. */
async function part<T>(found: Findings, signal: AbortSignal, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    throwIfAborted(signal);
    if (!isPresyncError(error)) throw error;
    found.errors = [...found.errors, error];
    return undefined;
  }
}

function usageOf(config: Config, databaseBytes: number, chunkSize: number): Usage {
  return {
    databaseBytes,
    compressed: config.databaseStored / 100,
    churn: config.databaseChurn / 100,
    snapshotsPerDay: config.snapshotsPerDay,
    keepDays: config.keepFor / DAY_MS,
    restoresPerMonth: config.restoresPerMonth,
    chunkSize,
  };
}

function documentOf(
  found: StoreFindings,
  problems: readonly StoreProblem[],
  warnings: readonly StoreWarning[],
): unknown {
  const { location, who, permissions, promises, clock, speed, cost, left } = found;
  const errorOf = (error: PresyncError | undefined): unknown =>
    error === undefined ? null : { code: error.code, message: error.message, hint: error.hint ?? null };
  return {
    store: location,
    as: who,
    ok: problems.length === 0,
    permissions:
      permissions === undefined
        ? null
        : {
            missingForReader: lackedBy('reader', found),
            missingForWriter: who === 'writer' ? lackedBy('writer', found) : null,
            absenceRefused: permissions.absenceRefused,
            checks: permissions.findings.map(({ error, note = null, hint = null, ...finding }) => ({
              ...finding,
              note,
              hint,
              error: errorOf(error),
            })),
          },
    promises:
      promises === undefined
        ? null
        : {
            topics: summaryOf(promises),
            cases: promises.map(({ error, trait = null, left: _, milliseconds, ...one }) => ({
              ...one,
              trait,
              milliseconds: Math.round(milliseconds),
              error: errorOf(error),
            })),
          },
    clock: clock ?? null,
    speed: speed ?? null,
    cost: cost ?? null,
    left,
    problems,
    warnings,
  };
}
