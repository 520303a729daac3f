/**
 * The one list of errors. Each code is stable: scripts and alert rules may match on it. The exit code is what the
 * command returns when the error ends it.
 *
 * `retryable` says whether the same call may succeed when it is made again without anybody changing anything.
 */
export const ERROR_CODES = {
  // Usage and configuration: exit 2
  CONFIG_INVALID: {
    exit: 2,
    meaning: 'An option has a value that it cannot have, or two options contradict each other.',
  },
  CONFIG_UNKNOWN_KEY: {
    exit: 2,
    meaning: 'A configuration file or the environment names an option that does not exist.',
  },
  CONFIG_UNREADABLE: { exit: 2, meaning: 'A configuration file cannot be read or parsed.' },
  USAGE: { exit: 2, meaning: 'The command line is not one that presync understands.' },
  KEY_INVALID: {
    exit: 2,
    meaning: 'A signing key or a trusted public key cannot be read or is not Ed25519.',
  },
  STORE_URL_INVALID: { exit: 2, meaning: 'A store URL has an unknown scheme, option or form.' },
  USER_DATA_SECRET: {
    exit: 2,
    meaning: 'User data would hold a secret, or something that each instance must have of its own.',
  },
  USER_DATA_TOO_LARGE: { exit: 2, meaning: 'User data is larger than the cloud takes.' },
  NODE_LAYOUT_NOT_FOUND: { exit: 2, meaning: 'The base path holds no chain database.' },
  NODE_LAYOUT_AMBIGUOUS: {
    exit: 2,
    meaning: 'The base path holds several chains or both database backends.',
  },
  NODE_UNKNOWN_FILE: { exit: 2, meaning: 'A file in the database is not on the allow-list for its backend.' },

  // A gate was shut: exit 3
  GATE_SHUT: { exit: 3, meaning: 'The node is not in a state from which a good snapshot can be taken.' },

  // Verification: exit 4
  FORMAT_INVALID: {
    exit: 4,
    meaning: 'An object of the repository, or an archive, does not follow its format or is cut short.',
  },
  FORMAT_TOO_NEW: {
    exit: 4,
    meaning: 'The repository or snapshot needs a newer presync, or a feature that this one lacks.',
  },
  CHUNK_CORRUPT: { exit: 4, meaning: 'A chunk is not what the index says: size, digest or content differ.' },
  CHUNK_MISSING: { exit: 4, meaning: 'A chunk that the index names is not in the repository.' },
  INDEX_CORRUPT: { exit: 4, meaning: 'The index is not what the manifest says.' },
  MANIFEST_CORRUPT: {
    exit: 4,
    meaning: 'The manifest is not what the latest pointer says, or is not a manifest.',
  },
  MANIFEST_UNSIGNED: { exit: 4, meaning: 'The manifest carries no signature.' },
  MANIFEST_UNTRUSTED: {
    exit: 4,
    meaning: 'No signature on the manifest is by a trusted key, or a signature is wrong.',
  },
  MANIFEST_EXPIRED: { exit: 4, meaning: 'The manifest is past its expiry.' },
  MANIFEST_ROLLED_BACK: {
    exit: 4,
    meaning: 'The repository offers an older snapshot than one that was seen before.',
  },
  MANIFEST_FOREIGN: { exit: 4, meaning: 'The snapshot belongs to another chain.' },
  PATH_UNSAFE: {
    exit: 4,
    meaning: 'A path in an index or archive would leave the target, or clashes with another path.',
  },
  CONTENT_MISMATCH: { exit: 4, meaning: 'What was read back is not what was written.' },
  PROOF_FAILED: {
    exit: 4,
    meaning: 'A new snapshot was restored, and a node that opened the copy did not show what it should hold.',
  },
  SNAPSHOT_QUARANTINED: {
    exit: 4,
    meaning: 'The snapshot has failed its proof on the source node, or has not passed it yet.',
  },
  SNAPSHOT_FAILED_BEFORE: {
    exit: 4,
    meaning: 'The snapshot turned out damaged when this machine restored it before.',
  },
  RESTORE_GIVEN_UP: {
    exit: 4,
    meaning: 'As many snapshots in a row as --max-attempts allows have turned out damaged on this machine.',
  },
  ARCHIVE_UNFIT: {
    exit: 4,
    meaning:
      'An archive holds no database, several of them, or something that no database has, such as links.',
  },
  ARCHIVE_MISMATCH: { exit: 4, meaning: 'An archive does not have the SHA-256 that was demanded.' },
  DATABASE_INCOMPLETE: { exit: 4, meaning: 'A database lacks files without which no node can open it.' },

  // Not found: exit 5
  REPOSITORY_NOT_FOUND: { exit: 5, meaning: 'There is no presync repository at the store URL.' },
  CHANNEL_NOT_FOUND: { exit: 5, meaning: 'The repository has no such channel.' },
  SNAPSHOT_NOT_FOUND: { exit: 5, meaning: 'The channel has no such snapshot.' },
  DAEMON_NOT_FOUND: { exit: 5, meaning: 'No daemon answers in the state folder.' },

  // Preflight: exit 6
  TARGET_RUNNING: { exit: 6, meaning: 'A node has the target database open.' },
  TARGET_NOT_EMPTY: { exit: 6, meaning: 'The target already holds a database.' },
  TARGET_BACKEND: {
    exit: 6,
    meaning: 'The target or its node uses another database backend than the snapshot.',
  },
  TARGET_PRUNING: { exit: 6, meaning: 'The node is configured for another pruning mode than the snapshot.' },
  TARGET_CHAIN: { exit: 6, meaning: 'The node is configured for another chain than the snapshot is of.' },
  TARGET_VERSION: {
    exit: 6,
    meaning: 'The node here is too old for a database of that version.',
  },
  TARGET_PATH: { exit: 6, meaning: 'The node looks for its database elsewhere than it would be restored.' },
  TARGET_OWNER: { exit: 6, meaning: "The node's user may not write what would be restored." },
  TARGET_LIMITS: { exit: 6, meaning: 'The node may have too few files open for that database.' },
  TARGET_CLOCK: { exit: 6, meaning: "This machine's clock is too far from that of the store." },
  TARGET_NODE: { exit: 6, meaning: "The node's unit is not there, or cannot be loaded." },
  NO_SPACE: { exit: 6, meaning: 'There is not enough room on the disk.' },
  WARP_SYNC_FASTER: {
    exit: 6,
    meaning: 'The node would be ready sooner by warp sync than from the snapshot, by estimate.',
  },
  NOTHING_TO_COMPARE: {
    exit: 6,
    meaning: 'A node has opened the database since it was restored, and changes every file of it in place.',
  },
  PROOF_NOT_ISOLATED: {
    exit: 6,
    meaning: 'A proof node cannot be kept from the network on this machine in the way that is demanded.',
  },
  TARGET_NOTES_DAMAGED: {
    exit: 6,
    meaning: 'What an interrupted restore has noted beside the database cannot be read.',
  },
  TARGET_UNWRITABLE: { exit: 6, meaning: 'The target cannot be written.' },

  // The store: exit 7
  STORE_NOT_FOUND: { exit: 7, meaning: 'The bucket, container or folder of the store does not exist.' },
  STORE_FORBIDDEN: { exit: 7, meaning: 'The store refuses the credentials, or there are none.' },
  STORE_READ_ONLY: { exit: 7, meaning: 'The store cannot be written.' },
  STORE_UNREACHABLE: { exit: 7, meaning: 'The store cannot be reached, or did not answer in time.' },
  STORE_FAILED: { exit: 7, meaning: 'The store answered with an error.' },
  STORE_NO_CONDITIONAL_WRITES: {
    exit: 7,
    meaning: 'The store does not honour conditional writes, which publishing depends on.',
  },
  STORE_OCCUPIED: { exit: 7, meaning: 'The store prefix holds something that is not a presync repository.' },
  OBJECT_NOT_FOUND: { exit: 7, meaning: 'An object is not in the store.' },
  OBJECT_TOO_LARGE: { exit: 7, meaning: 'An object is larger than anything that may stand under its key.' },
  LEASE_LOST: {
    exit: 7,
    meaning: 'The lease that kept collectors from removing what is in use could not be renewed in time.',
  },
  CONDITION_FAILED: {
    exit: 7,
    meaning: 'A conditional write lost: the object exists or was changed by somebody else.',
  },

  // The node: exit 8
  NODE_RPC_FAILED: { exit: 8, meaning: 'The node does not answer its RPC, or answers with an error.' },
  NODE_NOT_RUNNING: { exit: 8, meaning: 'There is no node process to pause.' },
  NODE_PAUSE_FAILED: { exit: 8, meaning: 'The node could not be paused.' },
  NODE_PAUSE_BUDGET: {
    exit: 8,
    meaning: 'The view was not frozen within the pause budget; the node was resumed.',
  },
  NODE_RESUME_FAILED: { exit: 8, meaning: 'The node could not be resumed.' },
  NODE_CHANGED: {
    exit: 8,
    meaning: 'The database changed while it was being read, although it should not have.',
  },
  NODE_NOT_READY: { exit: 8, meaning: 'The node did not become ready in time.' },
  NODE_WRONG_CHAIN: { exit: 8, meaning: 'The node that answers is on another chain than expected.' },
  NODE_STOP_FAILED: { exit: 8, meaning: 'The node could not be stopped.' },
  NODE_START_FAILED: { exit: 8, meaning: 'The node command or unit could not be started, or ended early.' },

  // The cloud, which never ends the agent by itself: exit 1
  CLOUD_UNREACHABLE: {
    exit: 1,
    meaning: "The cloud's metadata service or API cannot be reached, or did not answer in time.",
  },
  CLOUD_FORBIDDEN: {
    exit: 1,
    meaning: "The cloud's metadata service or API refuses this instance, or it has no credentials.",
  },
  CLOUD_FAILED: { exit: 1, meaning: "The cloud's metadata service or API answered with an error." },

  // The lock: exit 9
  LOCKED: { exit: 9, meaning: 'Another presync is at work here.' },

  // Anything else: exit 1
  ABORTED: { exit: 1, meaning: 'The operation was stopped from outside.' },
  IO_FAILED: { exit: 1, meaning: 'The operating system refused a file operation.' },
  INTERNAL: { exit: 1, meaning: 'A defect in presync.' },
} as const satisfies Record<string, { exit: number; meaning: string }>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface PresyncErrorOptions {
  /** What to do next, as a sentence in the imperative. The command prints it as "Try: …". */
  hint?: string | undefined;
  cause?: unknown;
  /** Default false. */
  retryable?: boolean | undefined;
  /** Do not retry before this many milliseconds (a store's `Retry-After`). */
  retryAfterMs?: number | undefined;
}

/** Every error that presync throws on purpose. The message says what failed and on which file, object or field. */
export class PresyncError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: PresyncErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'PresyncError';
    this.code = code;
    this.hint = options.hint;
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
  }

  get exitCode(): number {
    return ERROR_CODES[this.code].exit;
  }
}

/** True for a PresyncError, with that code when one is given. */
export function isPresyncError(error: unknown, code?: ErrorCode): error is PresyncError {
  return error instanceof PresyncError && (code === undefined || error.code === code);
}

/** The `code` of a system error such as `ENOENT`, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Throws ABORTED, with the signal's reason as cause, when the signal has fired. A PresyncError as reason is thrown as it is. */
export function throwIfAborted(signal: AbortSignal): void {
  if (!signal.aborted) return;
  if (signal.reason instanceof PresyncError) throw signal.reason;
  throw new PresyncError('ABORTED', 'stopped before it was done', { cause: signal.reason });
}

/** Turns a system error into a PresyncError that names the file; a PresyncError passes unchanged. */
export function ioError(error: unknown, action: string, path: string): PresyncError {
  if (error instanceof PresyncError) return error;
  const code = errnoOf(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new PresyncError('NO_SPACE', `no room left to ${action} ${path}`, {
      cause: error,
      hint: 'free some disk room, or use a larger disk',
    });
  }
  return new PresyncError('IO_FAILED', `cannot ${action} ${path}: ${messageOf(error)}`, {
    cause: error,
    hint:
      code === 'EACCES' || code === 'EPERM'
        ? 'run as the user who owns the file'
        : 'look at the disk and the permissions of the path',
  });
}
