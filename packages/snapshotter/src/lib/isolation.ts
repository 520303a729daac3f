import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';

/** What keeps a proof node from the network. */
export interface Isolation {
  /** Shown in log and report. */
  kind: 'namespace' | 'user namespace' | 'flags';
  /** What the program that is to be isolated is put behind. */
  wrapper: readonly string[];
  /** True when the loopback interface has to be raised first. */
  ownNetwork: boolean;
}

/**
 * `unshare` (util-linux) with a network of its own, and process ids of its own as well: when the first process in there ends, the kernel kills
 * whatever else is in there, and the first one is killed when `unshare` is.
 */
const UNSHARE = ['unshare', '--net', '--pid', '--fork', '--kill-child'] as const;
const UNSHARE_USER = [...UNSHARE, '--user', '--map-root-user'] as const;

const TRY_MS = 10_000;

/** Finds out how a process can be kept from the network here. PROOF_NOT_ISOLATED when it cannot, and it was not said that flags will do. */
export async function findIsolation(
  wanted: 'namespace' | 'flags',
  { signal }: { signal: AbortSignal },
): Promise<Isolation> {
  if (wanted === 'flags') return { kind: 'flags', wrapper: [], ownNetwork: false };
  const why: string[] = [];
  for (const [kind, wrapper] of [
    ['namespace', UNSHARE],
    ['user namespace', UNSHARE_USER],
  ] as const) {
    try {
      const [program, ...args] = [...wrapper, ...RAISE_LOOPBACK];
      await promisify(execFile)(program, args, { signal, timeout: TRY_MS });
      return { kind, wrapper, ownNetwork: true };
    } catch (error) {
      throwIfAborted(signal);
      why.push(messageOf(error).trim().split('\n').at(-1) ?? '');
    }
  }
  throw new PresyncError(
    'PROOF_NOT_ISOLATED',
    `no network namespace can be made for the proof node: ${why.join('; ')}`,
    {
      hint: 'install util-linux and iproute2, run as root or allow user namespaces, or accept with --prove-isolation flags that only flags of the node keep it from the network',
    },
  );
}

/** In a new network namespace even the loopback interface is down. */
export const RAISE_LOOPBACK = ['ip', 'link', 'set', 'lo', 'up'] as const;

/** Flags of every Substrate node that keep it from talking to others: weaker than a namespace, since the node itself has to honour them. */
const NO_NETWORK: readonly (readonly string[])[] = [
  ['--reserved-only'],
  ['--no-mdns'],
  ['--no-telemetry'],
  ['--no-prometheus'],
  ['--in-peers', '0'],
  ['--out-peers', '0'],
  ['--listen-addr', '/ip4/127.0.0.1/tcp/0'],
];

/** The command with the flags that it does not have yet, before what belongs to the relay chain's node. */
export function withoutNetwork(command: readonly string[]): string[] {
  const end = command.includes('--') ? command.indexOf('--') : command.length;
  const own = command.slice(0, end);
  const missing = NO_NETWORK.filter(
    ([flag = '']) => !own.some((argument) => argument === flag || argument.startsWith(`${flag}=`)),
  );
  return [...own, ...missing.flat(), ...command.slice(end)];
}
