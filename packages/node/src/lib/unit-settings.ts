import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { z } from 'zod';
import { type RunOutcome, runProgram } from './run-program.ts';
import { systemctl } from './systemctl.ts';
import { splitWords } from './systemd-words.ts';

/** What a service's unit, drop-ins included, tells systemd. Specifiers are put in, variables are not. */
export interface UnitSettings {
  /** With its suffix. */
  name: string;
  /** Files that it is made of, the last one of the greatest weight. */
  files: string[];
  /** Each `ExecStart=`: the program's path, and its arguments. */
  commands: { argv: string[]; expands: boolean }[];
  /** `NAME=VALUE`. */
  environment: string[];
  environmentFiles: { path: string; optional: boolean }[];
  unsetEnvironment: string[];
  user: string;
  dynamicUser: boolean;
  /** The hard limit. */
  openFiles: number;
  workingDirectory: string;
  rootDirectory: string;
}

const QUESTION_TIMEOUT_MS = 15_000;

const MANAGER = 'org.freedesktop.systemd1';

/**
 * Reads a service's unit from systemd itself, which has put drop-ins and templates together. D-Bus tells words as they are; where there is no bus, `systemctl show`
 * does, which puts blanks between words and keeps no quotes.
 *
 * @throws CONFIG_INVALID when there is no such unit, or systemd cannot be asked
 */
export async function readUnitSettings(
  unit: string,
  { signal }: { signal: AbortSignal },
): Promise<UnitSettings> {
  const name = /\.[a-z]+$/.test(unit) ? unit : `${unit}.service`;
  return (await fromBus(name, signal)) ?? (await fromShow(name, signal));
}

/** Each value as busctl writes it in JSON, in the order of the names. */
const unitAnswers = z.tuple([z.string(), z.string(), z.array(z.string())]);
const serviceAnswers = z.tuple([
  /** Path, words, flags, and when it ran. */
  z.array(z.tuple([z.string(), z.array(z.string()), z.array(z.string())]).rest(z.unknown())),
  z.array(z.string()),
  z.array(z.tuple([z.string(), z.boolean()])),
  z.array(z.string()),
  z.string(),
  z.boolean(),
  z.number(),
  z.string(),
  z.string(),
]);

async function fromBus(name: string, signal: AbortSignal): Promise<UnitSettings | undefined> {
  const loaded = await busctl(
    ['call', MANAGER, '/org/freedesktop/systemd1', `${MANAGER}.Manager`, 'LoadUnit', 's', name],
    signal,
  );
  const path = loaded.ok ? pathOf(loaded.stdout) : undefined;
  if (path === undefined) return undefined;
  const get = async <T>(kind: string, properties: readonly string[], schema: z.ZodType<T>) => {
    const { ok, stdout } = await busctl(
      ['get-property', MANAGER, path, `${MANAGER}.${kind}`, ...properties],
      signal,
    );
    return ok ? schema.safeParse(valuesOf(stdout)).data : undefined;
  };
  const unit = await get('Unit', ['LoadState', 'FragmentPath', 'DropInPaths'], unitAnswers);
  if (unit === undefined) return undefined;
  const [loadState, fragment, dropIns] = unit;
  assertLoaded(name, loadState);
  const service = await get(
    'Service',
    [
      ...['ExecStartEx', 'Environment', 'EnvironmentFiles', 'UnsetEnvironment', 'User', 'DynamicUser'],
      ...['LimitNOFILE', 'WorkingDirectory', 'RootDirectory'],
    ],
    serviceAnswers,
  );
  if (service === undefined) return undefined;
  const [commands, environment, files, unset, user, dynamicUser, openFiles, workingDirectory, rootDirectory] =
    service;
  return {
    name,
    files: [fragment, ...dropIns].filter((file) => file !== ''),
    commands: commands.map(([program, words, flags]) => ({
      argv: [program, ...words.slice(1)],
      expands: !flags.includes('no-env-expand'),
    })),
    environment,
    environmentFiles: files.map(([file, optional]) => ({ path: file, optional })),
    unsetEnvironment: unset,
    user,
    dynamicUser,
    openFiles,
    workingDirectory,
    rootDirectory,
  };
}

function busctl(args: readonly string[], signal: AbortSignal): Promise<RunOutcome> {
  return runProgram(['busctl', '--system', '--json=short', ...args], {
    timeoutMs: QUESTION_TIMEOUT_MS,
    signal,
  });
}

/** `{"type":"o","data":["/org/…"]}` */
function pathOf(text: string): string | undefined {
  const answer = z.object({ data: z.tuple([z.string().startsWith('/')]) }).safeParse(parse(text));
  return answer.data?.data[0];
}

/** A value a line: `{"type":"s","data":"loaded"}`. */
function valuesOf(text: string): unknown[] {
  return text
    .trim()
    .split('\n')
    .map((line) => z.object({ data: z.unknown() }).safeParse(parse(line)).data?.data);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const SHOWN = [
  ...['LoadState', 'FragmentPath', 'DropInPaths', 'ExecStartEx', 'Environment', 'EnvironmentFiles'],
  ...['UnsetEnvironment', 'User', 'DynamicUser', 'LimitNOFILE', 'WorkingDirectory', 'RootDirectory'],
];

async function fromShow(name: string, signal: AbortSignal): Promise<UnitSettings> {
  const outcome = await systemctl(
    ['show', ...SHOWN.map((property) => `--property=${property}`), '--', name],
    {
      signal,
    },
  );
  if (!outcome.ok) {
    throwIfAborted(signal);
    throw new PresyncError('CONFIG_INVALID', `systemd tells nothing of ${name}: systemctl ${outcome.why}`, {
      hint: "check --unit, and that systemd runs here; elsewhere give the node's command instead",
    });
  }
  const values = new Map<string, string[]>();
  // A word may hold the end of a line.
  for (const line of outcome.stdout.trimEnd().split(/\n(?=[A-Z][A-Za-z]*=)/)) {
    const sign = line.indexOf('=');
    const key = line.slice(0, sign);
    values.set(key, [...(values.get(key) ?? []), line.slice(sign + 1)]);
  }
  const all = (key: string): string[] => (values.get(key) ?? []).filter((value) => value !== '');
  const one = (key: string): string => all(key)[0] ?? '';
  assertLoaded(name, one('LoadState'));
  const limit = one('LimitNOFILE');
  return {
    name,
    files: [one('FragmentPath'), ...splitWords(one('DropInPaths'))].filter((file) => file !== ''),
    commands: all('ExecStartEx').map(shownCommand),
    environment: splitWords(one('Environment')),
    environmentFiles: all('EnvironmentFiles').map((text) => {
      const [, path = text, ignored] = /^(.*) \(ignore_errors=(yes|no)\)$/.exec(text) ?? [];
      return { path, optional: ignored === 'yes' };
    }),
    unsetEnvironment: splitWords(one('UnsetEnvironment')),
    user: one('User'),
    dynamicUser: one('DynamicUser') === 'yes',
    openFiles: limit === 'infinity' ? Number.POSITIVE_INFINITY : Number(limit),
    workingDirectory: one('WorkingDirectory'),
    rootDirectory: one('RootDirectory'),
  };
}

/** `{ path=/usr/bin/node ; argv[]=/usr/bin/node --dev ; flags= ; start_time=… }` */
function shownCommand(text: string): { argv: string[]; expands: boolean } {
  const [, path = '', words = '', flags = ''] =
    /^\{ path=(.*?) ; argv\[\]=(.*?) ; flags=(.*?) ; start_time=/s.exec(text) ?? [];
  const [, ...args] = words.split(' ');
  return { argv: [path, ...args], expands: !flags.split(' ').includes('no-env-expand') };
}

function assertLoaded(name: string, state: string): void {
  if (state === 'loaded') return;
  throw new PresyncError(
    'CONFIG_INVALID',
    state === 'not-found' ? `there is no unit ${name}` : `the unit ${name} is ${state}`,
    {
      hint:
        state === 'masked'
          ? `unmask it, with "systemctl unmask ${name}", or check --unit`
          : 'install the unit before presync runs, or check --unit; "systemctl list-unit-files" lists those that there are',
    },
  );
}
