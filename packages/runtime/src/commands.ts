import { OPTION_NAMES, type OptionName, type OptionValues } from './options.ts';

export interface CommandDefinition {
  readonly summary: string;
  readonly options: readonly OptionName[];
  /** Options without which the command cannot begin. */
  readonly required: readonly OptionName[];
  /** A switch with which the command does something else, and needs none of the required options. */
  readonly unless?: OptionName;
  /** Groups of which exactly one option is in force: each of them is another way to use the command. */
  readonly oneOf?: readonly (readonly OptionName[])[];
  /** Positional arguments, in commander's notation. */
  readonly arguments: readonly { readonly name: string; readonly description: string }[];
  /** Exit codes besides those that every command has. */
  readonly exits: readonly number[];
}

const COMMON = ['config', 'json', 'quiet', 'verbose'] as const;
const STORE = ['store', 'storeAuth', 'storeCa', 'storeCert', 'storeCertKey', 'bandwidth'] as const;
const REPOSITORY = [...STORE, 'channel', 'concurrency'] as const;
const TRUST = ['trust', 'insecureNoVerify', 'genesis'] as const;
const DATABASE = ['basePath', 'chain', 'backend', 'stateDir'] as const;

/** How the node is held still. */
const PAUSE = [
  'pause',
  'pid',
  'pidFile',
  'unit',
  'container',
  'dockerSocket',
  'dockerAction',
  'hookBefore',
  'hookAfter',
  'hookView',
  'hookTimeout',
  'pauseBudget',
] as const;

/** A frozen view of the node's database, and a snapshot of it. */
const VIEW = [
  ...DATABASE,
  ...PAUSE,
  'rpc',
  'genesis',
  'minPeers',
  'maxFinalityLag',
  'diskReserve',
  'allowValidator',
  'anchorAge',
  'viewDir',
  'signKey',
  'insecureNoSign',
  'expires',
  'chunkSize',
  'prove',
] as const;

/** A proof beyond reading back; an offer, which is not published, has none. */
const PROOF = ['proveRestore', 'proveDir', 'proveCommand', 'proveTimeout', 'proveIsolation'] as const;

const TAKE = [
  ...VIEW,
  'databases',
  'relayBasePath',
  ...PROOF,
  ...REPOSITORY,
  'compressionLevel',
  'report',
  'timezone',
  'quietHours',
  'traceOtlp',
] as const;

/** Options of a command that mean nothing without another one. */
export const SERVE_OPTIONS: Readonly<Record<'store' | 'basePath', readonly OptionName[]>> = {
  store: ['storeAuth', 'storeCa', 'storeCert', 'storeCertKey'],
  basePath: [...VIEW.filter((name) => name !== 'basePath'), 'channel', 'concurrency'],
};

const KEEP = ['keepLast', 'keepHourly', 'keepDaily', 'keepWeekly', 'keepMonthly', 'grace'] as const;

/** Which snapshot it is to be. */
const CHOOSE = ['snapshot', 'toBlock', 'allowQuarantined'] as const;

const RESTORE = [
  ...DATABASE,
  'relayBasePath',
  ...REPOSITORY,
  'source',
  ...TRUST,
  ...CHOOSE,
  'maxAge',
  'fallback',
  'maxAttempts',
  'retryFailed',
  'importRate',
  'warpSyncTime',
  'existing',
  'freeRoom',
  'owner',
  'sealedFile',
  'unit',
  'nodeCommand',
  'preflightIgnore',
  'diskReserve',
  'report',
  'dryRun',
] as const;

/** The cloud that the agent runs in. */
const CLOUD = ['cloud', 'cloudMetadata', 'launchHook', 'terminationHook'] as const;

/** The agent on a new instance. */
const AGENT = [
  ...RESTORE,
  'until',
  'drainTime',
  'rpc',
  'readyTimeout',
  'minPeers',
  'maxFinalityLag',
  'maxHeadLag',
  ...CLOUD,
  'adminListen',
] as const;

/** What does not depend on whoever runs the agent, but on how: its unit on an instance says so. */
const BY_HAND = ['dryRun', 'sealedFile', 'until'] as const;

type OnInstance = Exclude<(typeof AGENT)[number], (typeof BY_HAND)[number]>;

const ON_INSTANCE = AGENT.filter((name): name is OnInstance => !BY_HAND.some((other) => other === name));

/** Every command: what it takes and how it may end. The command line and its reference come from here. */
export const COMMANDS = {
  snapshot: {
    summary: 'Take one snapshot now',
    options: [...TAKE, 'dryRun', 'viaDaemon', ...COMMON],
    required: ['basePath', 'store'],
    unless: 'viaDaemon',
    arguments: [],
    exits: [3, 4, 5, 6, 7, 8, 9],
  },
  snapshotter: {
    summary: 'Take snapshots on a schedule: the daemon on the source node',
    options: [
      ...TAKE,
      'schedule',
      'jitter',
      'maxAge',
      'stallTimeout',
      ...KEEP,
      'adminListen',
      'adminTokenFile',
      ...COMMON,
    ],
    required: ['basePath', 'store', 'schedule'],
    arguments: [],
    exits: [6, 7, 8, 9],
  },
  status: {
    summary: 'Show what the daemon does, and the last runs',
    options: ['stateDir', ...COMMON],
    required: [],
    arguments: [],
    exits: [5],
  },
  restore: {
    summary: 'Restore a snapshot by hand, or a database archive that others publish',
    options: [...RESTORE, 'archive', 'archiveSha256', 'yes', ...COMMON],
    required: ['basePath'],
    oneOf: [['store', 'archive']],
    arguments: [
      {
        name: '[node-command...]',
        description:
          'after --: the command that starts the node; its arguments are compared, and it is not run',
      },
    ],
    exits: [4, 5, 6, 7, 9],
  },
  bootstrap: {
    summary: 'Restore, start the node and wait until it is ready: the agent on a new instance',
    options: [...AGENT, ...COMMON],
    required: ['basePath', 'store'],
    arguments: [
      {
        name: '[node-command...]',
        description: 'after --: the command that starts the node, and its arguments',
      },
    ],
    exits: [4, 5, 6, 7, 8, 9],
  },
  export: {
    summary: 'Write a snapshot as one .tar.zst, for people who have no presync',
    options: [...REPOSITORY, 'source', ...TRUST, ...CHOOSE, 'stateDir', 'out', ...COMMON],
    required: ['store', 'out'],
    arguments: [],
    exits: [4, 5, 6, 7],
  },
  serve: {
    summary:
      'Offer a repository, or the database of the node here, to other machines: a peer to restore from',
    options: [
      ...REPOSITORY,
      ...VIEW,
      'listen',
      'serveToken',
      'serveCert',
      'serveCertKey',
      'serveClientCa',
      'serveAnswers',
      'adminListen',
      ...COMMON,
    ],
    required: [],
    oneOf: [['store', 'basePath']],
    arguments: [],
    exits: [3, 4, 5, 6, 7, 8, 9],
  },
  resume: {
    summary: 'Bring back every node that a presync which has ended left paused',
    options: ['stateDir', ...COMMON],
    required: [],
    arguments: [],
    exits: [8],
  },
  list: {
    summary: 'List the channels and snapshots of a repository',
    options: [...STORE, 'channel', ...COMMON],
    required: ['store'],
    arguments: [],
    exits: [4, 5, 7],
  },
  show: {
    summary: 'Show one snapshot and who signed it',
    options: [...STORE, 'channel', ...TRUST, 'snapshot', 'stateDir', ...COMMON],
    required: ['store'],
    arguments: [],
    exits: [4, 5, 7],
  },
  verify: {
    summary: 'Check a repository, a channel or a snapshot, or a restored database, byte by byte',
    options: [
      ...REPOSITORY,
      ...TRUST,
      'snapshot',
      'path',
      'sample',
      'basePath',
      'relayBasePath',
      'stateDir',
      'report',
      ...COMMON,
    ],
    required: ['store'],
    arguments: [],
    exits: [4, 5, 6, 7],
  },
  prune: {
    summary: 'Remove the snapshots that retention does not keep, and what no snapshot names',
    options: [...REPOSITORY, ...KEEP, 'wait', 'stateDir', 'dryRun', 'report', ...COMMON],
    required: ['store'],
    arguments: [],
    exits: [4, 5, 6, 7],
  },
  pin: {
    summary: 'Keep a snapshot whatever retention says, or no longer',
    options: [...STORE, 'remove', ...COMMON],
    required: ['store'],
    arguments: [{ name: '<snapshot>', description: 'as in "presync list": CHANNEL#SEQ' }],
    exits: [4, 5, 7],
  },
  'store check': {
    summary: 'Check what a store allows, promises, achieves and costs',
    options: [
      ...STORE,
      'as',
      'channel',
      'chunkSize',
      'speedTime',
      'databaseSize',
      'databaseStored',
      'databaseChurn',
      'snapshotsPerDay',
      'keepFor',
      'restoresPerMonth',
      'report',
      ...COMMON,
    ],
    required: ['store'],
    arguments: [],
    exits: [4, 5, 6, 7],
  },
  'keys new': {
    summary: 'Make an Ed25519 key pair for signing',
    options: ['out', ...COMMON],
    required: ['out'],
    arguments: [],
    exits: [],
  },
  'keys public': {
    summary: 'Print the public key of a private one, in the form that --trust takes',
    options: [...COMMON],
    required: [],
    arguments: [{ name: '<file>', description: 'private key file' }],
    exits: [],
  },
  doctor: {
    summary: 'Check this machine, the node and the store, and say what to do',
    options: [
      ...DATABASE,
      ...STORE,
      'channel',
      'owner',
      ...PAUSE,
      'nodeCommand',
      'rpc',
      ...TRUST,
      'signKey',
      'viewDir',
      'databases',
      'relayBasePath',
      'minPeers',
      'maxFinalityLag',
      'diskReserve',
      'allowValidator',
      'quietHours',
      'timezone',
      ...COMMON,
    ],
    required: [],
    arguments: [],
    exits: [3, 4, 5, 6, 7, 8],
  },
  'cloud-init render': {
    summary: 'Print user data with which cloud-init brings up new instances by "presync bootstrap"',
    options: [...ON_INSTANCE, 'executableUrl', 'executableSha256', 'debUrl', 'debSha256', ...COMMON],
    required: ['basePath', 'store'],
    oneOf: [['unit', 'nodeCommand']],
    arguments: [],
    exits: [],
  },
  'config print': {
    summary: 'Print each option, its value and where the value comes from',
    options: OPTION_NAMES,
    required: [],
    arguments: [{ name: '[command...]', description: 'only the options of this command' }],
    exits: [],
  },
  'config check': {
    summary: 'Check the configuration, and for a command that nothing is missing',
    options: OPTION_NAMES,
    required: [],
    arguments: [{ name: '[command...]', description: 'the command that the configuration is for' }],
    exits: [],
  },
  'config schema': {
    summary: 'Print the JSON Schema of a configuration file',
    options: [...COMMON],
    required: [],
    arguments: [],
    exits: [],
  },
  'config reference': {
    summary: 'Print the reference of all options, as Markdown',
    options: [...COMMON],
    required: [],
    arguments: [],
    exits: [],
  },
} as const satisfies Record<string, CommandDefinition>;

export type CommandName = keyof typeof COMMANDS;

/** What a command is given: its options, of which the required ones are never undefined. */
export type CommandConfig<C extends CommandName> = Readonly<{
  [K in Extract<
    OptionName,
    (typeof COMMANDS)[C]['options'][number]
  >]: K extends (typeof COMMANDS)[C]['required'][number] ? NonNullable<OptionValues[K]> : OptionValues[K];
}>;

export const COMMAND_NAMES: readonly CommandName[] = Object.keys(COMMANDS).filter(isCommandName);

export function isCommandName(name: string): name is CommandName {
  return Object.hasOwn(COMMANDS, name);
}

/** The definition, in the form that is common to all. */
export function commandOf(name: CommandName): CommandDefinition {
  return COMMANDS[name];
}

/** What each exit code means, for help and reference. */
export const EXIT_CODES: Readonly<Record<number, string>> = {
  0: 'done',
  1: 'anything else failed',
  2: 'wrong usage or configuration',
  3: 'nothing was done because a gate was shut',
  4: 'verification failed: a digest, a signature, the genesis, or a rollback',
  5: 'not found',
  6: 'preflight refused: room, backend, pruning, paths, or an existing database, among others',
  7: 'the store failed: unreachable, forbidden, or no conditional writes',
  8: 'the node failed: RPC, pause, resume, or it did not become ready',
  9: 'another presync holds the lock',
  130: 'stopped by SIGINT, after cleaning up',
  143: 'stopped by SIGTERM, after cleaning up',
};

/** The exit codes that every command may end with. */
const COMMON_EXITS = [0, 1, 2, 130, 143];

/** All exit codes of a command, in order. */
export function exitsOf(name: CommandName): number[] {
  return [...COMMON_EXITS, ...commandOf(name).exits].toSorted((a, b) => a - b);
}
