import { accessSync, constants } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { AGENT_OPTIONS } from './lib/agent-options.ts';
import { CHOICE_OPTIONS } from './lib/choice-options.ts';
import { CLOUD_INIT_OPTIONS } from './lib/cloud-init-options.ts';
import { DAEMON_OPTIONS } from './lib/daemon-options.ts';
import type { OptionDefinition } from './lib/option-definition.ts';
import {
  argv,
  blockHash,
  bytes,
  choice,
  duration,
  flag,
  integer,
  list,
  listenAddress,
  type OptionKind,
  owner,
  pattern,
  powerOfTwoBytes,
  sha256,
  text,
  url,
} from './lib/option-kinds.ts';
import { PART_OPTIONS } from './lib/part-options.ts';
import { PAUSE_OPTIONS } from './lib/pause-options.ts';
import { PROOF_OPTIONS } from './lib/proof-options.ts';
import { RETENTION_OPTIONS } from './lib/retention-options.ts';

export type { OptionDefinition } from './lib/option-definition.ts';
export type { ListenAddress, OptionKind, Owner } from './lib/option-kinds.ts';

/** Where the configuration file stands unless `--config` says otherwise. */
export const DEFAULT_CONFIG_FILE = '/etc/presync/presync.yaml';

/** Every option, defined once: help, reference, JSON Schema and types all come from here. */
export const OPTIONS = {
  config: {
    kind: text('FILE', 'the path of a .yaml, .yml, .json or .toml file'),
    description: 'Configuration file (YAML, JSON or TOML, told apart by its name).',
    defaultText: `${DEFAULT_CONFIG_FILE}, where present`,
    inFile: false,
  },
  basePath: {
    kind: text('DIR', 'the path of a folder'),
    description: "The node's base path, as in its own --base-path.",
  },
  ...PART_OPTIONS,
  chain: {
    kind: pattern('ID', /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/, 'a chain spec id, such as polkadot or ksmcc3'),
    description:
      'Chain spec id: the name of the folder under chains/. Found from the base path when there is only one.',
  },
  backend: {
    kind: choice(['rocksdb', 'paritydb']),
    description: 'Database backend. Found from the base path when there is only one.',
  },
  store: {
    kind: text('URL', 'a store URL, such as s3://bucket/prefix?region=eu-central-1 or file:///srv/presync'),
    description: 'The object store that holds the repository. Credentials never belong in the URL.',
    environment: 'PRESYNC_STORE_URL',
  },
  archive: {
    kind: text('URL|FILE', 'an http or https URL, or the path of a file'),
    description:
      'Restore from what others publish, not from a repository: a .tar, plain or with zstd, LZ4 or gzip, or the base URL of a file list.',
    inFile: false,
  },
  archiveSha256: {
    kind: sha256(),
    description: 'SHA-256 that the archive must have, as its file stands on the server.',
    inFile: false,
  },
  source: {
    kind: list(text('URL', 'a store URL, such as https://cdn.example/presync or peer+http://10.0.0.5:9617')),
    description:
      'Another place that holds the same repository, as a CDN or a peer. Asked before --store, in the order given. Repeatable.',
    default: [],
  },
  storeAuth: {
    kind: text('FILE', 'the path of a file'),
    description:
      'Credentials of web servers and peers, one a line: ORIGIN bearer TOKEN, or ORIGIN basic USER:PASSWORD. Clouds have their own chain.',
    secret: true,
  },
  storeCa: {
    kind: text('FILE', 'the path of a file'),
    description: "PEM file of authorities that are trusted for stores besides the system's.",
  },
  storeCert: {
    kind: text('FILE', 'the path of a file'),
    description: 'PEM file of the client certificate for stores that want one.',
  },
  storeCertKey: {
    kind: text('FILE', 'the path of a file'),
    description: 'PEM file of its private key.',
  },
  bandwidth: {
    kind: bytes('64KiB', '1TiB'),
    description: 'Bytes a second that are moved to and from stores at most, on average.',
  },
  channel: {
    kind: pattern(
      'NAME',
      /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/,
      'a channel, <chain spec id>/<profile>, such as polkadot/paritydb-archive',
    ),
    description:
      'The line of snapshots, <chain spec id>/<profile>. Found when it is clear which one is meant.',
  },
  ...CHOICE_OPTIONS,
  ...PAUSE_OPTIONS,
  rpc: {
    kind: url(['http', 'https', 'ws', 'wss']),
    description: "The node's RPC endpoint, such as http://127.0.0.1:9944.",
  },
  genesis: {
    kind: blockHash(),
    description: "Hash of the chain's block 0. Snapshots of another chain are refused.",
  },
  signKey: {
    kind: list(text('FILE', 'the path of a private key file')),
    description: 'Private key file that signs the snapshot. Repeatable.',
    default: [],
    secret: true,
  },
  trust: {
    kind: list(text('FILE|KEY', 'a public key (ed25519:…) or the path of a file that holds one')),
    description: 'Public key, or a file with one, whose signature is accepted. Repeatable.',
    default: [],
  },
  insecureNoVerify: {
    kind: flag(),
    description: 'Use snapshots without checking who signed them, and archives that nothing proves.',
    default: false,
  },
  insecureNoSign: {
    kind: flag(),
    description: 'Publish snapshots that carry no signature.',
    default: false,
  },
  expires: {
    kind: duration('1m', '3650d'),
    description: 'A snapshot is refused when it is older than this.',
    default: '30d',
  },
  maxAge: {
    kind: duration('1m', '3650d'),
    description:
      'Refuse snapshots that were taken longer ago than this, even if they have not expired. The daemon is not ready while its newest one is older.',
  },
  concurrency: {
    kind: integer('N', 1, 1024),
    description: 'Objects that are moved at a time. Chosen to fit memory and link when absent.',
  },
  chunkSize: {
    kind: powerOfTwoBytes('64KiB', '64MiB'),
    description: 'Chunk size of a repository that is made new; an existing one keeps its own.',
    default: '4MiB',
  },
  compressionLevel: {
    kind: integer('N', 1, 19),
    description: 'zstd level of new chunks.',
    default: 3,
  },
  prove: {
    kind: choice(['none', 'sample', 'full']),
    description: 'How much of a new snapshot is read back and checked before it becomes latest.',
    default: 'sample',
  },
  ...PROOF_OPTIONS,
  as: {
    kind: choice(['writer', 'reader']),
    description:
      'Who is to be able to use the store: a source node, which writes, or a machine that only restores. Default: writer, where the store can be written.',
    inFile: false,
  },
  speedTime: {
    kind: duration('0s', '10m'),
    description: 'How long the speed of the store is measured in all; 0s for not at all.',
    default: '20s',
  },
  databaseSize: {
    kind: bytes('1MB', '1000TB'),
    description: 'Size of the database whose cost in object stores is to be estimated.',
  },
  databaseStored: {
    kind: integer('PERCENT', 1, 110, 'percent'),
    description: 'What compression leaves of the database. ParityDB compresses by itself.',
    default: 96,
  },
  databaseChurn: {
    kind: integer('PERCENT', 0, 100, 'percent'),
    description: 'How much of the database is new in each snapshot.',
    default: 5,
  },
  snapshotsPerDay: {
    kind: integer('N', 1, 288, 'snapshots'),
    description: 'Snapshots that are taken a day, for the estimate of cost.',
    default: 4,
  },
  keepFor: {
    kind: duration('1d', '3650d'),
    description: 'How long a snapshot is kept, for the estimate of cost.',
    default: '30d',
  },
  restoresPerMonth: {
    kind: integer('N', 0, 1_000_000, 'restores'),
    description: 'Restores a month, for the estimate of cost.',
    default: 10,
  },
  ...RETENTION_OPTIONS,
  remove: {
    kind: flag(),
    description: 'Remove the pin.',
    default: false,
    inFile: false,
  },
  ...DAEMON_OPTIONS,
  adminListen: {
    kind: listenAddress(),
    description: 'Where /healthz, /readyz, /metrics and, of the daemon, /runs are served; none for nowhere.',
    default: '127.0.0.1:9616',
  },
  listen: {
    kind: listenAddress(),
    description: 'Where the repository is offered to other machines.',
    default: '127.0.0.1:9617',
  },
  serveToken: {
    kind: text('FILE', 'the path of a file'),
    description: 'File with the bearer token that clients must send; theirs stands in --store-auth.',
    secret: true,
  },
  serveCert: {
    kind: text('FILE', 'the path of a file'),
    description: 'PEM file with the certificate of this server, and those of its authorities.',
  },
  serveCertKey: {
    kind: text('FILE', 'the path of a file'),
    description: 'PEM file with its private key.',
  },
  serveClientCa: {
    kind: text('FILE', 'the path of a file'),
    description: 'PEM file of authorities: only clients with a certificate of one of them are let in.',
  },
  serveAnswers: {
    kind: integer('N', 1, 4096, 'answers'),
    description: 'Answers that are given at a time; further clients are told to come again.',
    default: 64,
  },
  minPeers: {
    kind: integer('N', 0, 10_000, 'peers'),
    description: 'The node must have at least this many peers.',
    default: 1,
  },
  maxFinalityLag: {
    kind: integer('N', 0, 1_000_000, 'blocks'),
    description: 'The finalized block may be at most this many blocks behind the best one.',
    default: 20,
  },
  diskReserve: {
    kind: bytes('0B', '100TiB'),
    description:
      "Room that must stay free on the database's disk while the node runs and a view is taken, and after a restore. Nodes stop below 1 GiB.",
    default: '1536MiB',
  },
  allowValidator: {
    kind: flag(),
    description: 'Take snapshots of a validator too, which misses its blocks while it is paused.',
    default: false,
  },
  maxHeadLag: {
    kind: integer('N', 0, 1_000_000, 'blocks'),
    description: "The node's best block may be at most this many blocks behind the head that its peers tell.",
    default: 10,
  },
  anchorAge: {
    kind: duration('0s', '1h'),
    description:
      'How long before the pause a finalized block must have been seen to be named as surely in the copy.',
    default: '5s',
  },
  readyTimeout: {
    kind: duration('1s', '7d'),
    description: 'How long a started node may take until it is ready.',
    default: '30m',
  },
  ...AGENT_OPTIONS,
  viewDir: {
    kind: text('DIR', 'the path of a folder'),
    description:
      "Where the frozen view is kept while it is read; on the database's file system. Default: beside the database.",
  },
  stateDir: {
    kind: text('DIR', 'the path of a folder'),
    description: 'Where presync remembers what it has read, restored and seen.',
    default: defaultStateDir,
    defaultText:
      '/var/lib/presync where it can be written, else $XDG_STATE_HOME/presync or ~/.local/state/presync',
  },
  existing: {
    kind: choice(['refuse', 'keep', 'reuse', 'replace']),
    description:
      'What to do with a database that is already there: refuse it, keep it and restore nothing, reuse its chunks, or replace it.',
    default: 'refuse',
  },
  owner: {
    kind: owner(),
    description: 'Owner of restored files. Default: whoever runs presync.',
  },
  nodeCommand: {
    kind: argv(),
    description: 'The command that starts the node; on the command line best given after --.',
  },
  ...CLOUD_INIT_OPTIONS,
  report: {
    kind: text('FILE', 'the path of a file'),
    description: 'File that the outcome is written to, as JSON.',
  },
  out: {
    kind: text('FILE', 'the path of a file'),
    description:
      'File that the private key, or the archive, is written to. It must not exist. An archive goes to stdout with -.',
    inFile: false,
  },
  dryRun: {
    kind: flag(),
    description: 'Say what would be done, and do nothing.',
    default: false,
  },
  yes: {
    kind: flag(),
    description: 'Do not ask before something is replaced.',
    default: false,
  },
  json: {
    kind: flag(),
    description: 'Print one JSON document on stdout.',
    default: false,
  },
  quiet: {
    kind: flag(),
    description: 'No progress, and only warnings and errors in the log.',
    default: false,
  },
  verbose: {
    kind: flag(),
    description: 'Log details, and stack traces with errors.',
    default: false,
  },
} as const satisfies Record<string, OptionDefinition>;

export type OptionName = keyof typeof OPTIONS;

/** The value of each option; undefined where it has no default. */
export type OptionValues = {
  [K in OptionName]: (typeof OPTIONS)[K] extends { kind: OptionKind<infer T> }
    ? (typeof OPTIONS)[K] extends { default: unknown }
      ? T
      : T | undefined
    : never;
};

export const OPTION_NAMES: readonly OptionName[] = Object.keys(OPTIONS).filter(isOptionName);

export function isOptionName(name: string): name is OptionName {
  return Object.hasOwn(OPTIONS, name);
}

/** The definition, in the form that is common to all. */
export function optionOf(name: OptionName): OptionDefinition {
  return OPTIONS[name];
}

/** `--base-path` */
export function flagOf(name: OptionName): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** `PRESYNC_BASE_PATH` */
export function environmentOf(name: OptionName): string {
  return (
    optionOf(name).environment ??
    `PRESYNC_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
  );
}

/** Groups of which one at most is in force: each contradicts the others. */
export const EXCLUSIVE: readonly (readonly OptionName[])[] = [
  ['quiet', 'verbose'],
  ['pid', 'pidFile'],
  ['trust', 'insecureNoVerify'],
  ['signKey', 'insecureNoSign'],
  ['unit', 'nodeCommand'],
  ['executableUrl', 'debUrl'],
  ['snapshot', 'toBlock'],
];

function defaultStateDir(): string {
  const system = '/var/lib/presync';
  if (process.getuid?.() === 0) return system;
  try {
    accessSync(system, constants.W_OK);
    return system;
  } catch {
    // Not there or not ours: a person's own folder does as well.
    const state = process.env.XDG_STATE_HOME;
    return join(state === undefined || state === '' ? join(homedir(), '.local', 'state') : state, 'presync');
  }
}
