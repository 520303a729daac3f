/**
 * The runs of the daemon, kept as JSON Lines in the state folder: one line when a run begins and one when it ends. Whatever instant presync dies at,
 * each line is whole or is passed over, and a run without an end is known to have been interrupted.
 */
import { type FileHandle, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';

const RUN_CAUSES = ['schedule', 'catch-up', 'command', 'http'] as const;

export type RunCause = (typeof RUN_CAUSES)[number];

const begunRun = z.object({
  id: z.string().min(1).max(64),
  cause: z.enum(RUN_CAUSES),
  started: z.iso.datetime(),
});

export type BegunRun = z.infer<typeof begunRun>;

const runBytes = z.object({
  /** Of the files, and what they take on the source's disk. */
  total: z.number(),
  allocated: z.number(),
  unique: z.number(),
  stored: z.number(),
  /** What this run put into the store. */
  added: z.number(),
  read: z.number(),
});

export const runRecord = begunRun.extend({
  /** Null for a run that was interrupted: nobody was there to see its end. */
  ended: z.iso.datetime().nullable(),
  outcome: z.enum(['published', 'skipped', 'failed', 'stopped', 'interrupted']),
  code: z.string().nullable(),
  reason: z.string().nullable(),
  gates: z.array(z.string()),
  channel: z.string().nullable(),
  sequence: z.number().nullable(),
  anchor: z.number().nullable(),
  pauseSeconds: z.number().nullable(),
  /** Seconds by phase, in order. */
  phases: z.record(z.string(), z.number()),
  bytes: runBytes.nullable(),
});

/** A run, as it stands in the history. */
export type RunRecord = z.infer<typeof runRecord>;

const FILE = 'runs.jsonl';

/** So many runs are remembered. */
export const MAX_RUNS = 1000;

/** More than MAX_RUNS runs ever take. */
const MAX_BYTES = 16 * 1024 * 1024;

export interface History {
  /** The oldest first. */
  readonly runs: readonly RunRecord[];
  /** Lines that could not be read. */
  readonly unreadable: number;
  /** @throws NO_SPACE, IO_FAILED; likewise `end` */
  begin(run: BegunRun): Promise<void>;
  end(run: RunRecord): Promise<void>;
  close(): Promise<void>;
}

/** The runs that a state folder remembers, without changing anything. */
export async function readRuns(stateDir: string): Promise<{ runs: RunRecord[]; unreadable: number }> {
  const { runs, unreadable } = parse(await readText(join(stateDir, FILE)));
  return { runs, unreadable };
}

/** Opens the history for the one process that may write it. */
export async function openHistory(stateDir: string, maxRuns: number = MAX_RUNS): Promise<History> {
  const path = join(stateDir, FILE);
  const text = await readText(path);
  const { runs, unreadable } = parse(text);
  // Written anew at each start: it drops what could not be read, and states what was interrupted.
  trim(runs, maxRuns);
  let lines = runs.length;
  let file = await rewrite(stateDir, path, runs);

  let torn = false;
  const append = async (document: object): Promise<void> => {
    try {
      // What a full disk cut off must not spoil the line that follows it.
      await file.appendFile(`${torn ? '\n' : ''}${JSON.stringify(document)}\n`);
      torn = false;
      await file.datasync();
    } catch (error) {
      torn = true;
      throw ioError(error, 'write', path);
    }
    lines += 1;
    if (lines <= 2 * maxRuns + 1) return;
    const fresh = await rewrite(stateDir, path, runs);
    await file.close();
    file = fresh;
    lines = runs.length;
  };
  return {
    runs,
    unreadable,
    begin: (run) => append({ begun: run }),
    end: async (run) => {
      // In memory it stands in any case: a full disk must not make the daemon forget.
      runs.push(run);
      trim(runs, maxRuns);
      await append(run);
    },
    close: () => file.close(),
  };
}

/** Drops the oldest runs, but never the last that published: how old the newest snapshot is must not be forgotten over runs that were skipped. */
function trim(runs: RunRecord[], maxRuns: number): void {
  while (runs.length > maxRuns) {
    const newest = runs.findLastIndex(({ outcome }) => outcome === 'published');
    runs.splice(newest === 0 ? 1 : 0, 1);
  }
}

function parse(text: string): { runs: RunRecord[]; unreadable: number } {
  const runs: RunRecord[] = [];
  let begun: BegunRun | undefined;
  let unreadable = 0;
  const interrupt = (): void => {
    if (begun !== undefined) runs.push(interrupted(begun));
    begun = undefined;
  };
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const document = parseLine(line);
    const beginning = z.object({ begun: begunRun }).safeParse(document);
    const ended = runRecord.safeParse(document);
    if (beginning.success) {
      interrupt();
      begun = beginning.data.begun;
    } else if (ended.success) {
      if (begun?.id === ended.data.id) begun = undefined;
      else interrupt();
      runs.push(ended.data);
    } else unreadable += 1;
  }
  interrupt();
  return { runs, unreadable };
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function interrupted(run: BegunRun): RunRecord {
  return {
    ...run,
    ended: null,
    outcome: 'interrupted',
    code: null,
    reason: 'presync ended in the middle of it',
    gates: [],
    channel: null,
    sequence: null,
    anchor: null,
    pauseSeconds: null,
    phases: {},
    bytes: null,
  };
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > MAX_BYTES) {
      throw new PresyncError(
        'IO_FAILED',
        `the run history ${path} has ${size} bytes, more than it ever takes`,
        {
          hint: 'move it away; presync begins a new one',
        },
      );
    }
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
    throw ioError(error, 'read', path);
  }
}

/** Puts the runs into a new file at its place, durably, and opens it for what comes. */
async function rewrite(stateDir: string, path: string, runs: readonly RunRecord[]): Promise<FileHandle> {
  const temporary = `${path}.new`;
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    await rm(temporary, { force: true });
    const file = await open(temporary, 'ax', 0o600);
    try {
      await file.appendFile(runs.map((run) => `${JSON.stringify(run)}\n`).join(''));
      await file.sync();
      await rename(temporary, path);
      await using folder = await open(stateDir, 'r');
      await folder.sync();
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  } catch (error) {
    throw ioError(error, 'write', path);
  }
}
