import { basename } from 'node:path';

/** What a container's engine is told of a node's container. */
export interface ContainerPlace {
  image: string;
  /** What follows the image. */
  args: readonly string[];
  /** Folders of this machine, or named volumes of the engine (with no slash in front), and where they are seen in the container. */
  mounts: readonly { from: string; to: string }[];
  /** `--user`, as it was written. */
  user: string | undefined;
  /** The hard limit of `--ulimit nofile`. */
  openFiles: number | undefined;
  /** `--workdir`. */
  workdir: string | undefined;
}

export function isEngine(program: string): boolean {
  return ['docker', 'podman', 'nerdctl'].includes(basename(program));
}

/** Options of `docker run` and `podman run` that have no value of their own. */
const SWITCHES = new Set([
  ...[
    '--detach',
    '--disable-content-trust',
    '--env-host',
    '--help',
    '--http-proxy',
    '--init',
    '--interactive',
  ],
  ...[
    '--no-healthcheck',
    '--no-hosts',
    '--no-hostname',
    '--oom-kill-disable',
    '--privileged',
    '--publish-all',
  ],
  ...['--quiet', '--read-only', '--read-only-tmpfs', '--replace', '--rm', '--rmi', '--rootfs', '--sig-proxy'],
  ...['--tls-verify', '--tty', '--use-api-socket'],
]);
const SHORT_SWITCHES = /^-[ditPq]+$/;

/** Reads `run [OPTIONS] IMAGE [ARGS]`; undefined for any other command of the engine. */
export function peelContainer(args: readonly string[]): ContainerPlace | undefined {
  const start = args[0] === 'container' ? 1 : 0;
  if (args[start] !== 'run') return undefined;
  const mounts: { from: string; to: string }[] = [];
  let user: string | undefined;
  let workdir: string | undefined;
  let openFiles: number | undefined;
  let at = start + 1;
  for (; at < args.length; at++) {
    const arg = args[at] ?? '';
    if (!arg.startsWith('-') || arg === '-') break;
    if (SHORT_SWITCHES.test(arg)) continue;
    const equals = arg.indexOf('=');
    const name = equals === -1 ? arg : arg.slice(0, equals);
    if (SWITCHES.has(name)) continue;
    const attached = equals === -1 ? /^-[a-z](.+)$/.exec(arg)?.[1] : arg.slice(equals + 1);
    const value = attached ?? args[++at] ?? '';
    const option = attached !== undefined && equals === -1 ? arg.slice(0, 2) : name;
    if (option === '-v' || option === '--volume') {
      const [from = '', to] = value.split(':');
      if (to !== undefined) mounts.push({ from, to });
    } else if (option === '--mount') {
      const mount = readMount(value);
      if (mount !== undefined) mounts.push(mount);
    } else if (option === '-u' || option === '--user') user = value;
    else if (option === '-w' || option === '--workdir') workdir = value;
    else if (option === '--ulimit') openFiles = limitOf(value) ?? openFiles;
  }
  const image = args[at];
  if (image === undefined) return undefined;
  return { image, args: args.slice(at + 1), mounts, user, openFiles, workdir };
}

/** `type=bind,source=/srv,target=/data`. */
function readMount(text: string): { from: string; to: string } | undefined {
  const fields = new Map(
    text.split(',').map((field): [string, string] => {
      const equals = field.indexOf('=');
      return [field.slice(0, equals), field.slice(equals + 1)];
    }),
  );
  const from = fields.get('source') ?? fields.get('src');
  const to = fields.get('target') ?? fields.get('destination') ?? fields.get('dst');
  return from === undefined || to === undefined ? undefined : { from, to };
}

/** `nofile=SOFT:HARD`; the soft one is the hard one, too, where that is left out. */
function limitOf(text: string): number | undefined {
  const [, soft, hard] = /^nofile=(\d+)(?::(\d+))?$/.exec(text) ?? [];
  return soft === undefined ? undefined : Number(hard ?? soft);
}
