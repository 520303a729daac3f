import { type CommandConfig, type CommandName, commandOf } from './commands.ts';
import { PresyncError } from './errors.ts';
import { readConfigFile } from './lib/config-file.ts';
import { nearest } from './nearest.ts';
import {
  DEFAULT_CONFIG_FILE,
  EXCLUSIVE,
  environmentOf,
  flagOf,
  isOptionName,
  OPTION_NAMES,
  type OptionName,
  optionOf,
} from './options.ts';
import { redactText, redactValue } from './redact.ts';

/** Where a value comes from. */
export type ConfigSource =
  | { kind: 'default' }
  | { kind: 'file'; path: string }
  | { kind: 'environment'; variable: string }
  | { kind: 'command line'; flag: string };

/** What the command line gave: text as typed, several for a repeatable flag, true for a switch. */
export type CommandLineValues = Partial<Record<OptionName, string | readonly string[] | true>>;

export interface LoadConfigOptions {
  commandLine?: CommandLineValues | undefined;
  /** Default: the environment of the process. */
  environment?: Readonly<Record<string, string | undefined>> | undefined;
  /** Read when no file is named; it need not exist. Default /etc/presync/presync.yaml. */
  defaultFile?: string | undefined;
  /** Default true. False accepts that options are missing without which the command cannot begin. */
  checkRequired?: boolean | undefined;
}

/** One option as it came out, in the form that it is written in, without secrets. */
export interface ExplainedOption {
  name: OptionName;
  value: unknown;
  source: ConfigSource;
}

export interface LoadedConfig<C extends CommandName> {
  values: CommandConfig<C>;
  /** What every command takes. */
  output: { json: boolean; quiet: boolean; verbose: boolean };
  /** The configuration file that was read. */
  file: string | undefined;
  /** The command's options, in the order of the reference. */
  explained: readonly ExplainedOption[];
}

const ENVIRONMENT_PREFIX = 'PRESYNC_';

/**
 * Variables that begin with `PRESYNC_` and are no options. Kubernetes adds variables for each Service of a namespace,
 * and one may well be called presync (kubernetes.io, "Accessing the Service": environment variables).
 */
const FOREIGN_VARIABLES = [
  /^PRESYNC_LAUNCHED$/,
  /^PRESYNC_NODE_BIN$/,
  /^PRESYNC_VERSITYGW$/,
  /^PRESYNC_MINIO$/,
  /^PRESYNC_FAKE_GCS_SERVER$/,
  /^PRESYNC_AZURITE$/,
  /^PRESYNC_EC2_METADATA_MOCK$/,
  /^PRESYNC_TOOL_CACHE$/,
  /^PRESYNC_TEST_[A-Z_]+$/,
  /^PRESYNC_HOOK_(?:PHASE|ID|PATH|DATABASES)$/,
  /^PRESYNC_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?)$/,
  /^PRESYNC_(?:[A-Z0-9_]+_)?PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?$/,
];

interface Found {
  value: unknown;
  source: ConfigSource;
}

/** The later a source stands here, the more it weighs. */
const RANKS: readonly ConfigSource['kind'][] = ['default', 'file', 'environment', 'command line'];

/**
 * The options of a command, from defaults, file, environment and command line, the later winning. Everything that is
 * given is checked, also what this command does not take.
 *
 * @throws PresyncError CONFIG_UNREADABLE, CONFIG_UNKNOWN_KEY, CONFIG_INVALID
 */
export async function loadConfig<C extends CommandName>(
  command: C,
  options: LoadConfigOptions = {},
): Promise<LoadedConfig<C>> {
  const environment = options.environment ?? process.env;
  const fromEnvironment = readEnvironment(environment);
  const fromCommandLine = readCommandLine(options.commandLine ?? {});
  const named = (fromCommandLine.get('config') ?? fromEnvironment.get('config'))?.value;
  const path = typeof named === 'string' ? named : (options.defaultFile ?? DEFAULT_CONFIG_FILE);
  const content = await readConfigFile(path, named === undefined);
  const fromFile = content === undefined ? new Map<OptionName, Found>() : readEntries(path, content);

  const found = new Map<OptionName, Found>();
  for (const name of OPTION_NAMES) {
    const given = fromCommandLine.get(name) ?? fromEnvironment.get(name) ?? fromFile.get(name);
    found.set(name, given ?? { value: defaultOf(name), source: { kind: 'default' } });
  }
  settleContradictions(found, [...EXCLUSIVE, ...(commandOf(command).oneOf ?? [])]);

  if (options.checkRequired !== false) assertRequired(command, (name) => found.get(name)?.value);
  const taken = OPTION_NAMES.filter((name) => commandOf(command).options.includes(name));
  const values = Object.fromEntries(taken.map((name) => [name, found.get(name)?.value]));
  return {
    // Each value is what the option's schema gave, and the required ones are there.
    values: values as CommandConfig<C>,
    output: {
      json: found.get('json')?.value === true,
      quiet: found.get('quiet')?.value === true,
      verbose: found.get('verbose')?.value === true,
    },
    file: content === undefined ? undefined : path,
    explained: taken.map((name) =>
      explain(name, found.get(name) ?? { value: undefined, source: { kind: 'default' } }),
    ),
  };
}

/**
 * Rejects with CONFIG_INVALID when an option has no value without which the command cannot begin.
 */
export function assertRequired(command: CommandName, lookUp: (name: OptionName) => unknown): void {
  const { unless } = commandOf(command);
  if (unless !== undefined && lookUp(unless) === true) return;
  for (const name of commandOf(command).required) {
    if (lookUp(name) === undefined) throw missing(command, [name]);
  }
  for (const group of commandOf(command).oneOf ?? []) {
    if (group.every((name) => lookUp(name) === undefined)) throw missing(command, group);
  }
}

/** `the command line (--store)`, for messages and `config print`. */
export function describeSource(source: ConfigSource): string {
  switch (source.kind) {
    case 'default':
      return 'default';
    case 'file':
      return source.path;
    case 'environment':
      return `environment (${source.variable})`;
    case 'command line':
      return `command line (${source.flag})`;
  }
}

function readCommandLine(given: CommandLineValues): Map<OptionName, Found> {
  const found = new Map<OptionName, Found>();
  for (const name of OPTION_NAMES) {
    const raw = given[name];
    if (raw === undefined) continue;
    const { kind } = optionOf(name);
    const input =
      typeof raw === 'string'
        ? kind.fromText(raw)
        : raw === true || !kind.repeatable
          ? raw
          : raw.map((text) => kind.fromOccurrence(text));
    found.set(name, check(name, input, { kind: 'command line', flag: flagOf(name) }));
  }
  return found;
}

function readEnvironment(environment: Readonly<Record<string, string | undefined>>): Map<OptionName, Found> {
  const found = new Map<OptionName, Found>();
  const byVariable = new Map(OPTION_NAMES.map((name) => [environmentOf(name), name]));
  for (const [variable, text] of Object.entries(environment)) {
    if (!variable.startsWith(ENVIRONMENT_PREFIX)) continue;
    const name = byVariable.get(variable);
    if (name === undefined) {
      if (FOREIGN_VARIABLES.some((form) => form.test(variable))) continue;
      throw unknownKey(variable, 'in the environment', byVariable.keys());
    }
    // An empty variable is how EnvironmentFile= and compose files say "not set".
    if (text === undefined || text === '') continue;
    found.set(name, check(name, optionOf(name).kind.fromText(text), { kind: 'environment', variable }));
  }
  return found;
}

function readEntries(path: string, content: Map<string, unknown>): Map<OptionName, Found> {
  const found = new Map<OptionName, Found>();
  const allowed = OPTION_NAMES.filter((name) => optionOf(name).inFile !== false);
  for (const [key, value] of content) {
    if (!isOptionName(key) || !allowed.includes(key)) throw unknownKey(key, `in ${path}`, allowed);
    // `key:` with nothing after it is how YAML says "not set".
    if (value === null) continue;
    found.set(key, check(key, value, { kind: 'file', path }));
  }
  return found;
}

function defaultOf(name: OptionName): unknown {
  const { default: value, kind } = optionOf(name);
  if (value === undefined) return undefined;
  return kind.schema.parse(typeof value === 'function' ? value() : value);
}

function check(name: OptionName, input: unknown, source: ConfigSource): Found {
  const { kind, secret } = optionOf(name);
  const read = kind.schema.safeParse(input);
  if (read.success) return { value: read.data, source };
  const title =
    source.kind === 'file' ? name : source.kind === 'environment' ? source.variable : flagOf(name);
  const where =
    source.kind === 'file'
      ? ` in ${source.path}`
      : ` ${source.kind === 'environment' ? 'in' : 'on'} the ${source.kind}`;
  const shown = secret === true ? 'has a value that it cannot have' : `is ${excerpt(input)}`;
  throw new PresyncError('CONFIG_INVALID', `${title} ${shown}${where}; it must be ${kind.allowed}`, {
    hint: `correct ${title}; "presync config reference" describes every option`,
  });
}

/** A value for a message: redacted, and not longer than a line. */
function excerpt(input: unknown): string {
  const shown = JSON.stringify(redactValue(input)) ?? String(input);
  return shown.length > 120 ? `${shown.slice(0, 117)}…` : shown;
}

/**
 * Of options that contradict each other, the one whose source weighs more is in force and the others fall back to
 * their defaults, so that `--pid` wins over a `pidFile` in the file. Two from the same source are an error.
 */
function settleContradictions(
  found: Map<OptionName, Found>,
  groups: readonly (readonly OptionName[])[],
): void {
  for (const group of groups) {
    const given = group
      .map((name) => ({
        name,
        ...(found.get(name) ?? { value: undefined, source: { kind: 'default' as const } }),
      }))
      .filter(({ value, source }) => source.kind !== 'default' && value !== false)
      .toSorted((a, b) => RANKS.indexOf(b.source.kind) - RANKS.indexOf(a.source.kind));
    const [winner, ...others] = given;
    for (const other of others) {
      if (other.source.kind === winner?.source.kind) {
        throw new PresyncError(
          'CONFIG_INVALID',
          `${flagOf(winner.name)} (${describeSource(winner.source)}) and ${flagOf(other.name)} (${describeSource(other.source)}) contradict each other`,
          {
            hint:
              winner.source.kind === 'command line'
                ? 'keep one of them'
                : 'keep one of them, or give the one that is meant on the command line',
          },
        );
      }
      found.set(other.name, { value: defaultOf(other.name), source: { kind: 'default' } });
    }
  }
}

function explain(name: OptionName, { value, source }: Found): ExplainedOption {
  const shown = value === undefined ? null : redactValue(optionOf(name).kind.show(value));
  return { name, value: shown, source };
}

function missing(command: CommandName, group: readonly OptionName[]): PresyncError {
  const ways = group.map((name) => {
    const inFile = optionOf(name).inFile === false ? '' : `, or ${name} in the configuration file`;
    return `give ${flagOf(name)} ${optionOf(name).kind.placeholder ?? ''}, or set ${environmentOf(name)}${inFile}`;
  });
  return new PresyncError('CONFIG_INVALID', `${command} needs ${group.map(flagOf).join(' or ')}`, {
    hint: ways.join('; or '),
  });
}

function unknownKey(key: string, where: string, known: Iterable<string>): PresyncError {
  const candidate = nearest(
    key.replace(ENVIRONMENT_PREFIX, ''),
    [...known].map((name) => name.replace(ENVIRONMENT_PREFIX, '')),
  );
  const prefix = key.startsWith(ENVIRONMENT_PREFIX) ? ENVIRONMENT_PREFIX : '';
  return new PresyncError(
    'CONFIG_UNKNOWN_KEY',
    `there is no option ${redactText(JSON.stringify(key))}, which is set ${where}`,
    {
      hint:
        candidate === undefined
          ? '"presync config reference" names every option'
          : `write ${prefix}${candidate}, if that is what was meant`,
    },
  );
}
