import { constants } from 'node:fs';
import { access, open } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { type ContainerPlace, isEngine, peelContainer } from './container-command.ts';
import { hasNodeArguments } from './parse-arguments.ts';
import { shellCommands } from './shell-command.ts';
import type { Environment } from './systemd-words.ts';

/** A node's command, taken out of what starts it. */
export interface Peeled {
  /** The executable's absolute path, where it is one of this machine, and its arguments. In a container the image's entry point is not known. */
  argv: readonly string[];
  environment: Environment;
  cwd: string;
  container: ContainerPlace | undefined;
  /** Why more may be said to the node than `argv` tells; undefined when that is all. */
  obstacle: string | undefined;
}

const SHELLS = new Set(['sh', 'bash', 'dash', 'ash']);

/** Programs that run another one: which of their options have a value, and how many words come before the program. */
const RUNNERS: Readonly<Record<string, { values: readonly string[]; words?: number }>> = {
  nice: { values: ['-n', '--adjustment'] },
  ionice: { values: ['-c', '--class', '-n', '--classdata'] },
  taskset: { values: [], words: 1 },
  chrt: { values: ['-T', '-P', '-D'], words: 1 },
  numactl: { values: ['-m', '-N', '-C', '-p'] },
  nohup: { values: [] },
  setsid: { values: [] },
  stdbuf: { values: ['-i', '-o', '-e'] },
  env: { values: ['-u', '--unset', '-C', '--chdir'] },
  sudo: { values: ['-u', '-g', '-h', '-p', '-C', '-r', '-t', '-U', '-D', '-R'] },
  setpriv: { values: [] },
  tini: { values: ['-p', '-e'] },
  'dumb-init': { values: ['-r', '--rewrite'] },
  gosu: { values: [], words: 1 },
  'su-exec': { values: [], words: 1 },
};

/** Each layer is a program that starts another one. */
const MAX_LAYERS = 10;
const MAX_SCRIPT = 64 * 1024;

/** Takes off shells, runners and container engines, until the node's own command is left. Nothing is run. */
export async function peelCommand(
  argv: readonly string[],
  { environment, cwd }: { environment: Environment; cwd: string },
): Promise<Peeled> {
  let peeled: Peeled = { argv, environment, cwd, container: undefined, obstacle: undefined };
  for (let layer = 0; layer < MAX_LAYERS; layer++) {
    const next = await peelLayer(peeled);
    if (next === undefined) break;
    peeled = next;
    if (next.obstacle !== undefined || next.container !== undefined) break;
  }
  return peeled;
}

async function peelLayer(peeled: Peeled): Promise<Peeled | undefined> {
  const { argv } = peeled;
  const [program = '', ...args] = argv;
  const name = basename(program);
  if (SHELLS.has(name)) return peelShell(peeled, name, args);
  const runner = RUNNERS[name];
  if (runner !== undefined) return peelRunner(peeled, runner, args);
  if (isEngine(name)) {
    const place = peelContainer(args);
    if (place === undefined)
      return { ...peeled, obstacle: `${name} ${args[0] ?? ''} does not tell what it runs` };
    return { ...peeled, argv: ['', ...place.args], container: place };
  }
  const path = await findProgram(program, peeled);
  if (path === undefined) return undefined;
  const script = await readScript(path);
  if (script === undefined) return path === program ? undefined : { ...peeled, argv: [path, ...args] };
  return peelScript(peeled, path, script, [path, ...args]);
}

/** `sh -c SCRIPT`, or `sh FILE`. */
async function peelShell(peeled: Peeled, name: string, args: readonly string[]): Promise<Peeled> {
  const at = args.findIndex((arg) => !/^[-+]/.test(arg));
  const option = args.slice(0, at === -1 ? args.length : at);
  const [first, ...rest] = at === -1 ? [] : args.slice(at);
  if (first === undefined) return { ...peeled, obstacle: `${name} is given no command` };
  if (option.some((text) => /^-[a-z]*c$/.test(text)))
    return peelScript(peeled, `${name} -c`, first, rest.length > 0 ? rest : [name]);
  const script = await readScript(resolve(peeled.cwd, first), true);
  if (script === undefined) return { ...peeled, obstacle: `${first} cannot be read` };
  return peelScript(peeled, first, script, [first, ...rest]);
}

function peelScript(peeled: Peeled, what: string, script: string, parameters: readonly string[]): Peeled {
  const commands = shellCommands(script, { environment: peeled.environment, parameters });
  // Of several programs the node is the one that is spoken to as a node, or else the last one.
  const found = commands?.findLast(({ words }) => hasNodeArguments(words)) ?? commands?.at(-1);
  if (found === undefined)
    return { ...peeled, obstacle: `${what} is a script of which only running it tells what it starts` };
  return {
    ...peeled,
    argv: found.words,
    environment: found.environment,
    cwd: found.cwd === undefined ? peeled.cwd : resolve(peeled.cwd, found.cwd),
  };
}

function peelRunner(
  peeled: Peeled,
  { values, words = 0 }: { values: readonly string[]; words?: number },
  args: readonly string[],
): Peeled {
  const environment: Record<string, string> = { ...peeled.environment };
  let at = 0;
  for (; at < args.length; at++) {
    const arg = args[at] ?? '';
    const assignment = /^([A-Za-z_]\w*)=([\s\S]*)$/.exec(arg);
    if (arg === '--') {
      at += 1;
      break;
    }
    if (assignment !== null) environment[assignment[1] ?? ''] = assignment[2] ?? '';
    else if (values.includes(arg)) at += 1;
    else if (!arg.startsWith('-')) break;
  }
  const argv = args.slice(at + words);
  if (argv.length === 0) return { ...peeled, obstacle: `${peeled.argv[0]} is given no command` };
  return { ...peeled, argv, environment };
}

/** Where the program is, as execvp(3) looks for it. */
async function findProgram(program: string, { environment, cwd }: Peeled): Promise<string | undefined> {
  const folders = program.includes('/') ? [cwd] : (environment.PATH ?? '').split(':').filter(Boolean);
  for (const folder of folders) {
    const path = program.includes('/') ? resolve(folder, program) : join(folder, program);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The text of a shell's script; undefined for any other program. */
async function readScript(path: string, isScript = false): Promise<string | undefined> {
  try {
    await using file = await open(path, 'r');
    const buffer = Buffer.alloc(MAX_SCRIPT);
    const { bytesRead } = await file.read(buffer, 0, MAX_SCRIPT, 0);
    const text = buffer.toString('utf8', 0, bytesRead);
    const interpreter = /^#![ \t]*(?:\S*\/env[ \t]+)?(?:\S*\/)?(\S+)/.exec(text)?.[1];
    return isScript || SHELLS.has(interpreter ?? '') ? text : undefined;
  } catch {
    // A program may be run without being read.
    return undefined;
  }
}
