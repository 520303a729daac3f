import { glob, readFile } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { messageOf } from '@presync/runtime/errors';
import type { ContainerPlace } from './container-command.ts';
import {
  type ChainArguments,
  hasNodeArguments,
  isTemporary,
  type NodeArguments,
  parseNodeArguments,
} from './parse-arguments.ts';
import { type Peeled, peelCommand } from './peel-command.ts';
import { type Environment, expandWords, parseEnvironmentFile } from './systemd-words.ts';
import { readUnitSettings, type UnitSettings } from './unit-settings.ts';
import { findUser, type NodeUser } from './users.ts';

export type { NodeUser } from './users.ts';

/** Where a node's arguments stand. */
export type NodeSource = { unit: string } | { command: readonly string[] };

/** A node as it will be started here. */
export interface ConfiguredNode {
  /** What to call it: `polkadot.service`, or `the node command`. */
  name: string;
  /** Where an argument is changed, to end a sentence: `in ExecStart= of /etc/systemd/system/polkadot.service`. */
  where: string;
  /** Undefined when they could not be found. */
  arguments: NodeArguments | undefined;
  /** Why they could not be found, or why the node may be given more of them; undefined when they are all. */
  obstacle: string | undefined;
  /** The executable, where it is one of this machine. */
  executable: string | undefined;
  cwd: string;
  /** The folder `~` of who runs it. */
  home: string;
  environment: Environment;
  /** Who runs it; undefined when that cannot be known from here, as in a container. */
  user: NodeUser | undefined;
  /** Hard limit of open files; undefined when it is not known. */
  openFiles: number | undefined;
  container: ContainerPlace | undefined;
  /** systemd's `RootDirectory=`. */
  root: string | undefined;
}

/**
 * Reads a node's arguments where they stand. Nothing of the node is run.
 *
 * @throws CONFIG_INVALID when there is no such unit, ABORTED
 */
export function configuredNode(
  source: NodeSource,
  { signal }: { signal: AbortSignal },
): Promise<ConfiguredNode> {
  return 'unit' in source ? ofUnit(source.unit, signal) : ofCommand(source.command, signal);
}

async function ofCommand(command: readonly string[], signal: AbortSignal): Promise<ConfiguredNode> {
  const environment = Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
  const user = await findUser(String(process.getuid?.() ?? 0), signal);
  return describe(await peelCommand(command, { environment, cwd: process.cwd() }), {
    name: 'the node command',
    where: 'in the node command',
    home: environment.HOME ?? user?.home ?? '/root',
    user,
    openFiles: await ownLimit(),
    root: undefined,
    obstacle: undefined,
  });
}

async function ofUnit(unit: string, signal: AbortSignal): Promise<ConfiguredNode> {
  const settings = await readUnitSettings(unit, { signal });
  const user = settings.dynamicUser ? undefined : await findUser(settings.user || '0', signal);
  const { environment, obstacle } = await environmentOf(settings, user);
  const home = environment.HOME ?? user?.home ?? '/root';
  const cwd = settings.workingDirectory.replace(/^!?-?/, '').replace(/^~$/, home) || '/';
  const commands = await Promise.all(
    settings.commands.map(({ argv: [program = '', ...words], expands }) =>
      peelCommand([program, ...(expands ? expandWords(words, environment) : words)], { environment, cwd }),
    ),
  );
  // A oneshot service may have several.
  const peeled = commands.findLast(({ argv }) => hasNodeArguments(argv)) ?? commands.at(-1);
  return describe(
    peeled ?? { argv: [], environment, cwd, container: undefined, obstacle: 'it has no ExecStart=' },
    {
      name: settings.name,
      where: `in ExecStart= of ${(await fileOfCommand(settings)) ?? settings.name}`,
      home,
      user,
      openFiles: settings.openFiles,
      root: settings.rootDirectory === '' ? undefined : settings.rootDirectory,
      obstacle,
    },
  );
}

function describe(
  { argv: [executable = '', ...args], environment, cwd, container, obstacle }: Peeled,
  around: Pick<ConfiguredNode, 'name' | 'where' | 'home' | 'user' | 'openFiles' | 'root' | 'obstacle'>,
): ConfiguredNode {
  const isNode = hasNodeArguments(args) || /polkadot|substrate|collator|parachain/.test(basename(executable));
  const why =
    obstacle ??
    (isNode ? around.obstacle : `${executable === '' ? 'it' : executable} is given no argument of a node`);
  return {
    ...around,
    arguments: isNode ? parseNodeArguments(args) : undefined,
    obstacle: why,
    executable: container === undefined && executable.startsWith('/') ? executable : undefined,
    cwd: container?.workdir ?? cwd,
    environment,
    user: container === undefined ? around.user : undefined,
    openFiles: container === undefined ? around.openFiles : container.openFiles,
    container,
  };
}

/** Its variables, as systemd gives them to the service (systemd.exec(5)). */
async function environmentOf(
  settings: UnitSettings,
  user: NodeUser | undefined,
): Promise<{ environment: Environment; obstacle: string | undefined }> {
  const environment: Record<string, string> = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin',
    ...(settings.user !== '' && user !== undefined
      ? { HOME: user.home, USER: user.name, LOGNAME: user.name, SHELL: user.shell }
      : {}),
  };
  for (const assignment of settings.environment) {
    const sign = assignment.indexOf('=');
    if (sign > 0) environment[assignment.slice(0, sign)] = assignment.slice(sign + 1);
  }
  let obstacle: string | undefined;
  for (const { path, optional } of settings.environmentFiles) {
    try {
      for await (const file of matching(path))
        Object.assign(environment, parseEnvironmentFile(await readFile(file, 'utf8')));
    } catch (error) {
      if (!optional) obstacle = `the EnvironmentFile= ${path} cannot be read: ${messageOf(error)}`;
    }
  }
  for (const name of settings.unsetEnvironment) delete environment[name];
  return { environment, obstacle };
}

async function* matching(path: string): AsyncGenerator<string> {
  if (!/[*?[]/.test(path)) yield path;
  else {
    const paths: string[] = [];
    for await (const found of glob(path)) paths.push(found);
    yield* paths.toSorted();
  }
}

/** The file whose `ExecStart=` is in force. */
async function fileOfCommand({ files }: UnitSettings): Promise<string | undefined> {
  for (const file of files.toReversed()) {
    const text = await readFile(file, 'utf8').catch(() => '');
    if (/^\s*ExecStart\s*=\s*\S/m.test(text)) return file;
  }
  return undefined;
}

/** A started command inherits the limit of this process. */
async function ownLimit(): Promise<number | undefined> {
  const text = await readFile('/proc/self/limits', 'utf8').catch(() => '');
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(text)?.[1];
  if (hard === undefined) return undefined;
  return hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
}

/** Where a path that the node is given lies on this machine; undefined where a container has it to itself. */
export function hostPath(
  node: Pick<ConfiguredNode, 'cwd' | 'container' | 'root'>,
  path: string,
): string | undefined {
  const inside = resolve(node.cwd, path);
  const { container, root } = node;
  if (container === undefined) return root === undefined ? inside : join(root, inside);
  const [mount] = container.mounts
    .filter(({ to }) => inside === resolve(to) || inside.startsWith(`${resolve(to)}/`))
    .toSorted((a, b) => b.to.length - a.to.length);
  return mount?.from.startsWith('/') ? join(mount.from, relative(resolve(mount.to), inside)) : undefined;
}

/**
 * The base path of a node, as the node sees it: without the flag a folder below its user's home that is named by the executable (sdk
 * `client/service/src/config.rs`, `BasePath::from_project`). Undefined for a temporary one, and in a container that names none.
 */
export function basePathOf(node: ConfiguredNode, own: ChainArguments): string | undefined {
  if (isTemporary(own)) return undefined;
  if (own.basePath !== undefined) return own.basePath;
  if (node.executable === undefined) return undefined;
  const data = node.environment.XDG_DATA_HOME ?? join(node.home, '.local/share');
  return join(data, basename(node.executable));
}
