/** Manual pages, from the definitions of options and commands. */
import { COMMAND_NAMES, commandOf, EXIT_CODES } from '../../../packages/runtime/src/commands.ts';
import {
  DEFAULT_CONFIG_FILE,
  environmentOf,
  flagOf,
  OPTION_NAMES,
  type OptionName,
  optionOf,
} from '../../../packages/runtime/src/options.ts';
import { defaultText } from '../../../packages/runtime/src/reference.ts';

export interface ManualSettings {
  version: string;
  /** `YYYY-MM-DD` */
  date: string;
}

/** Text as roff takes it: a backslash or a hyphen is meant as such, and no line is taken for a request. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('…', '...')
    .replaceAll(/^(?=[.'])/gm, '\\&');
}

const bold = (text: string): string => `\\fB${roff(text)}\\fR`;
const italic = (text: string): string => `\\fI${roff(text)}\\fR`;

function header(title: string, section: number, what: string, { version, date }: ManualSettings): string[] {
  return [
    '.\\" Generated from the definitions of options and commands.',
    `.TH ${title} ${section} ${date} "presync ${version}" "presync"`,
    '.SH NAME',
    `${title} \\- ${what}`,
  ];
}

/** `--store URL` */
function shownFlag(name: OptionName): string {
  const { placeholder } = optionOf(name).kind;
  return placeholder === undefined ? bold(flagOf(name)) : `${bold(flagOf(name))} ${italic(placeholder)}`;
}

/** presync(1): every command with its options, and every option once. */
export function commandManual(settings: ManualSettings): string {
  return [
    ...header('presync', 1, "pre-synced copies of a Substrate node's database", settings),
    '.SH SYNOPSIS',
    `${bold('presync')} ${italic('command')} [${italic('options')}]`,
    '.SH DESCRIPTION',
    roff(
      'presync keeps snapshots of a node\'s database in an object store, and brings new nodes up from them. "presync help COMMAND" tells more of each command.',
    ),
    '.SH COMMANDS',
    ...COMMAND_NAMES.flatMap((name) => {
      const { summary, options, required, oneOf = [], arguments: operands } = commandOf(name);
      const needed = [
        ...required.map(shownFlag),
        ...oneOf.map((group) => group.map(shownFlag).join(' | ')),
        ...operands.map(({ name: operand }) => italic(operand)),
      ];
      const listed = options.length === OPTION_NAMES.length ? ['all'] : options.map(flagOf);
      return [
        '.TP',
        [bold(`presync ${name}`), ...needed].join(' '),
        `${roff(summary)}.`,
        '.br',
        `Options: ${listed.map(roff).join(', ')}.`,
      ];
    }),
    '.SH OPTIONS',
    roff('Each can also stand in the environment or in the configuration file; see presync.yaml(5).'),
    ...OPTION_NAMES.flatMap((name) => {
      const fallback = defaultText(name);
      return [
        '.TP',
        shownFlag(name),
        roff(optionOf(name).description),
        ...(fallback === undefined ? [] : [roff(`Default: ${fallback}.`)]),
        roff(`Environment: ${environmentOf(name)}.`),
      ];
    }),
    '.SH EXIT STATUS',
    ...Object.entries(EXIT_CODES).flatMap(([code, meaning]) => ['.TP', bold(code), `${roff(meaning)}.`]),
    '.SH FILES',
    ...files([
      [DEFAULT_CONFIG_FILE, 'The configuration.'],
      ['/etc/presync/presync.env', 'Variables for the units, such as credentials of a cloud.'],
      ['/etc/presync/keys', 'A place for signing keys.'],
      ['/var/lib/presync', 'What presync remembers.'],
    ]),
    '.SH SEE ALSO',
    `${bold('presync.yaml')}(5), ${bold('systemctl')}(1)`,
    '',
  ].join('\n');
}

/** presync.yaml(5): every option that may stand in a file. */
export function configManual(settings: ManualSettings): string {
  return [
    ...header('presync.yaml', 5, 'the configuration of presync', settings),
    '.SH DESCRIPTION',
    roff(
      `presync reads ${DEFAULT_CONFIG_FILE} where it is present, or the file that --config names. Every option can stand in the file, in the environment or on the command line; the later of these wins. "presync config check COMMAND" tells whether anything is wrong or missing, "presync config print" what is in force and why.`,
    ),
    '.SH OPTIONS',
    ...OPTION_NAMES.filter((name) => optionOf(name).inFile !== false).flatMap((name) => {
      const { kind, description } = optionOf(name);
      const fallback = defaultText(name);
      return [
        '.TP',
        `${bold(name)}${kind.repeatable ? ' (a list)' : ''}`,
        roff(description),
        roff(`Value: ${kind.allowed}.`),
        ...(fallback === undefined ? [] : [roff(`Default: ${fallback}.`)]),
      ];
    }),
    '.SH FILES',
    ...files([[DEFAULT_CONFIG_FILE, 'The configuration.']]),
    '.SH SEE ALSO',
    `${bold('presync')}(1)`,
    '',
  ].join('\n');
}

function files(entries: readonly (readonly [path: string, what: string])[]): string[] {
  return entries.flatMap(([path, what]) => ['.TP', italic(path), roff(what)]);
}
