import { COMMAND_NAMES, type CommandName, commandOf, EXIT_CODES, exitsOf } from '@presync/runtime/commands';
import type { CommandLineValues } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import { environmentOf, flagOf, OPTION_NAMES, optionOf } from '@presync/runtime/options';
import { defaultText } from '@presync/runtime/reference';
import { Command, CommanderError, Option } from 'commander';

/** What somebody typed. */
export interface Invocation {
  command: CommandName;
  args: readonly string[];
  commandLine: CommandLineValues;
}

export interface ProgramOptions {
  version: string;
  /** Takes help and version. */
  writeOut: (text: string) => void;
  /** Columns of the help text. Default: the terminal's. */
  width?: number | undefined;
}

const GROUPS: Readonly<Record<string, string>> = {
  keys: 'Make and read signing keys',
  store: 'Look at an object store',
  'cloud-init': 'Make user data for new instances',
  config: 'Look at the configuration',
};

/** The words of a command's name, the last and what goes before it. */
function splitName(name: CommandName): { group: string | undefined; word: string } {
  const space = name.indexOf(' ');
  return space < 0
    ? { group: undefined, word: name }
    : { group: name.slice(0, space), word: name.slice(space + 1) };
}

/**
 * Reads a command line. Undefined when it asked for help or the version, which has been written.
 *
 * @throws PresyncError USAGE, whose hint names the nearest command or option
 */
export function readCommandLine(argv: readonly string[], options: ProgramOptions): Invocation | undefined {
  let invocation: Invocation | undefined;
  const program = buildProgram(options, (found) => {
    invocation = found;
  });
  try {
    program.parse(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return undefined;
    throw usageError(error, argv);
  }
  return invocation === undefined ? undefined : withNodeCommand(invocation, argv);
}

/** The help of every command, in order, for the reference. */
export function helpPages(options: ProgramOptions): { title: string; help: string }[] {
  const program = buildProgram(options, () => {});
  const pages: { title: string; help: string }[] = [];
  const visit = (command: Command, title: string): void => {
    let help = '';
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    pages.push({ title, help: help.trimEnd() });
    for (const child of command.commands) visit(child, `${title} ${child.name()}`);
  };
  visit(program, 'presync');
  return pages;
}

function buildProgram(options: ProgramOptions, onCommand: (invocation: Invocation) => void): Command {
  const { width } = options;
  const program = new Command('presync')
    .description(
      'Keeps pre-synced copies of a Substrate node database in an object store, and brings new nodes up from them.',
    )
    .version(options.version, '-V, --version', 'Print the version.')
    .helpOption('-h, --help', 'Print this help.')
    .helpCommand('help [command]', 'Print the help of a command')
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({
      writeOut: options.writeOut,
      // Errors are told once, by the lifecycle, with code and hint.
      writeErr: () => {},
      outputError: () => {},
      ...(width === undefined ? {} : { getOutHelpWidth: () => width, getOutHasColors: () => false }),
    })
    .addHelpText('after', `\n${exitText(Object.keys(EXIT_CODES).map(Number))}`);
  const groups = new Map<string, Command>();
  for (const name of COMMAND_NAMES) {
    const { group, word } = splitName(name);
    let parent = program;
    if (group !== undefined) {
      parent =
        groups.get(group) ??
        program
          .command(group)
          .description(GROUPS[group] ?? '')
          .helpCommand(false);
      groups.set(group, parent);
    }
    addCommand(parent, word, name, onCommand);
  }
  return program;
}

function addCommand(
  parent: Command,
  word: string,
  name: CommandName,
  onCommand: (invocation: Invocation) => void,
): void {
  const definition = commandOf(name);
  const command = parent
    .command(word)
    .description(`${definition.summary}.`)
    .summary(definition.summary)
    .allowExcessArguments(false);
  for (const argument of definition.arguments) command.argument(argument.name, argument.description);
  for (const option of OPTION_NAMES) {
    if (!definition.options.includes(option)) continue;
    const { kind, description } = optionOf(option);
    const fallback = defaultText(option);
    const others = (definition.oneOf ?? [])
      .filter((group) => group.includes(option))
      .flatMap((group) => group.filter((other) => other !== option));
    const notes = [
      ...(definition.required.includes(option) ? ['required'] : []),
      ...(others.length > 0 ? [`this or ${others.map(flagOf).join(' or ')} is required`] : []),
      ...(fallback === undefined ? [] : [`default: ${fallback}`]),
      `env: ${environmentOf(option)}`,
    ];
    const shown = new Option(
      `${flagOf(option)}${kind.placeholder === undefined ? '' : ` <${kind.placeholder}>`}`,
      `${description} (${notes.join('; ')})`,
    );
    if (kind.repeatable) {
      shown.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]);
    }
    command.addOption(shown);
  }
  command.addHelpText('after', `\n${exitText(exitsOf(name))}`);
  command.action(() => {
    onCommand({ command: name, args: command.args, commandLine: command.opts<CommandLineValues>() });
  });
}

function exitText(codes: readonly number[]): string {
  return [
    'Exit codes:',
    ...codes.map((code) => `  ${String(code).padStart(3)}  ${EXIT_CODES[code] ?? ''}`),
  ].join('\n');
}

/** What follows `--` is the node's command; nothing else may be taken for it. */
function withNodeCommand(invocation: Invocation, argv: readonly string[]): Invocation {
  const takes = commandOf(invocation.command).arguments.some(({ name }) => name === '[node-command...]');
  if (!takes || invocation.args.length === 0) return invocation;
  const dashes = argv.indexOf('--');
  const after = dashes < 0 ? [] : argv.slice(dashes + 1);
  if (after.length !== invocation.args.length) {
    throw new PresyncError('USAGE', `unexpected argument "${invocation.args[0]}"`, {
      hint: `write the command that starts the node after --, as in "presync ${invocation.command} … -- polkadot --chain polkadot"`,
    });
  }
  if (invocation.commandLine.nodeCommand !== undefined) {
    throw new PresyncError(
      'USAGE',
      'the command that starts the node is given twice, with --node-command and after --',
      {
        hint: 'keep one of them',
      },
    );
  }
  return { ...invocation, args: [], commandLine: { ...invocation.commandLine, nodeCommand: after } };
}

function usageError(error: CommanderError, argv: readonly string[]): PresyncError {
  const words = argv.filter((word) => !word.startsWith('-'));
  const group = words[0] !== undefined && Object.hasOwn(GROUPS, words[0]) ? words[0] : undefined;
  const about =
    COMMAND_NAMES.find((name) => name === words[0] || name === words.slice(0, 2).join(' ')) ?? group;
  const help = `"presync ${about === undefined ? 'help' : `${about} --help`}" tells what there is`;
  if (error.code === 'commander.help') {
    const choices = COMMAND_NAMES.filter((name) => splitName(name).group === group).map(
      (name) => splitName(name).word,
    );
    return new PresyncError(
      'USAGE',
      group === undefined ? 'no command is given' : `presync ${group} needs one of ${choices.join(', ')}`,
      { hint: help },
    );
  }
  const [, message = error.message, suggestion] =
    /^(?:error: )?(.*?)(?:\n\(Did you mean (.*)\?\))?$/s.exec(error.message) ?? [];
  return new PresyncError('USAGE', message, {
    hint: suggestion === undefined ? help : `write ${suggestion}, if that is what was meant`,
  });
}
