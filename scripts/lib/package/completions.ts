/** Completions for shells, from the definitions of options and commands. */
import { COMMAND_NAMES, type CommandName, commandOf } from '../../../packages/runtime/src/commands.ts';
import { flagOf, type OptionName, optionOf } from '../../../packages/runtime/src/options.ts';

const GENERATED = '# Generated from the definitions of options and commands.';

/** Words that stand before others, as `keys` before `new`. */
const GROUPS = [
  ...new Set(COMMAND_NAMES.filter((name) => name.includes(' ')).map((name) => firstWord(name))),
];

function firstWord(name: CommandName): string {
  return name.split(' ')[0] ?? name;
}

/** The words that may come first. */
const FIRST_WORDS = [...new Set(COMMAND_NAMES.map(firstWord)), 'help'];

function secondWords(group: string): string[] {
  return COMMAND_NAMES.filter((name) => name.startsWith(`${group} `)).map((name) =>
    name.slice(group.length + 1),
  );
}

type Values = { kind: 'switch' | 'file' | 'folder' | 'other' } | { kind: 'words'; words: string[] };

function valuesOf(name: OptionName): Values {
  const { placeholder } = optionOf(name).kind;
  if (placeholder === undefined) return { kind: 'switch' };
  if (/^[a-z0-9-]+(\|[a-z0-9-]+)+$/.test(placeholder))
    return { kind: 'words', words: placeholder.split('|') };
  if (placeholder === 'DIR') return { kind: 'folder' };
  if (placeholder.split('|').includes('FILE')) return { kind: 'file' };
  return { kind: 'other' };
}

/** Every option that some command takes. */
const OPTIONS = [...new Set(COMMAND_NAMES.flatMap((name): readonly OptionName[] => commandOf(name).options))];

export function bashCompletion(): string {
  const flags = (matches: (values: Values) => boolean): string =>
    OPTIONS.filter((name) => matches(valuesOf(name)))
      .map(flagOf)
      .join(' | ');
  return `# bash completion for presync
${GENERATED}

_presync() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} command=\${COMP_WORDS[1]}
  COMPREPLY=()
  case $prev in
${OPTIONS.flatMap((name) => {
  const values = valuesOf(name);
  return values.kind === 'words'
    ? [
        `    ${flagOf(name)}) mapfile -t COMPREPLY < <(compgen -W '${values.words.join(' ')}' -- "$cur"); return ;;`,
      ]
    : [];
}).join('\n')}
    ${flags(({ kind }) => kind === 'folder')}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    ${flags(({ kind }) => kind === 'file')}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    ${flags(({ kind }) => kind === 'other')}) return ;;
  esac
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W '${FIRST_WORDS.join(' ')} --help --version' -- "$cur")
    return
  fi
  case $command in
${GROUPS.map(
  (group) => `    ${group})
      if ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -W '${secondWords(group).join(' ')}' -- "$cur")
        return
      fi
      command+=" \${COMP_WORDS[2]}" ;;`,
).join('\n')}
    help) mapfile -t COMPREPLY < <(compgen -W '${FIRST_WORDS.join(' ')}' -- "$cur"); return ;;
  esac
  case $command in
${COMMAND_NAMES.map(
  (name) =>
    `    '${name}') mapfile -t COMPREPLY < <(compgen -W '${commandOf(name).options.map(flagOf).join(' ')} --help' -- "$cur") ;;`,
).join('\n')}
  esac
}
complete -F _presync presync
`;
}

/** A word in single quotes, as all three shells read it once its own quotes are written so. */
function quoted(text: string, quote: string): string {
  return `'${text.replaceAll("'", quote)}'`;
}

export function zshCompletion(): string {
  const q = (text: string): string => quoted(text, "'\\''");
  const spec = (name: OptionName): string => {
    const { kind, description } = optionOf(name);
    const values = valuesOf(name);
    const text = description.replaceAll(/[[\]\\:]/g, (mark) => `\\${mark}`);
    const action =
      values.kind === 'words'
        ? `:${name}:(${values.words.join(' ')})`
        : values.kind === 'folder'
          ? `:${name}:_files -/`
          : values.kind === 'file'
            ? `:${name}:_files`
            : values.kind === 'other'
              ? `:${name}: `
              : '';
    return q(`${kind.repeatable ? '*' : ''}${flagOf(name)}[${text}]${action}`);
  };
  const described = (words: readonly (readonly [word: string, what: string])[]): string =>
    words.map(([word, what]) => q(`${word}:${what.replaceAll(':', '\\:')}`)).join(' ');
  return `#compdef presync
${GENERATED}

_presync() {
  local -a words_of
  local command=$words[2]
  if ((CURRENT == 2)); then
    words_of=(${described(
      FIRST_WORDS.map((word) => [
        word,
        COMMAND_NAMES.includes(word as CommandName) ? commandOf(word as CommandName).summary : '',
      ]),
    )})
    _describe command words_of
    return
  fi
  case $command in
${GROUPS.map(
  (group) => `    ${group})
      if ((CURRENT == 3)); then
        words_of=(${described(
          COMMAND_NAMES.filter((name) => name.startsWith(`${group} `)).map((name) => [
            name.slice(group.length + 1),
            commandOf(name).summary,
          ]),
        )})
        _describe command words_of
        return
      fi
      command+=" $words[3]"
      shift words
      ((CURRENT -= 1)) ;;`,
).join('\n')}
  esac
  shift words
  ((CURRENT -= 1))
  case $command in
${COMMAND_NAMES.map(
  (name) =>
    `    ${q(name)}) _arguments ${commandOf(name).options.map(spec).join(' ')} '--help[Print this help.]' '*: :_default' ;;`,
).join('\n')}
  esac
}

_presync "$@"
`;
}

export function fishCompletion(): string {
  const q = (text: string): string => quoted(text.replaceAll('\\', '\\\\'), "\\'");
  const seen = (name: CommandName): string =>
    name
      .split(' ')
      .map((word) => `__fish_seen_subcommand_from ${word}`)
      .join('; and ');
  const lines = [`# fish completion for presync`, GENERATED, 'complete -c presync -f'];
  for (const word of FIRST_WORDS) {
    const name = COMMAND_NAMES.find((command) => command === word);
    const what = name === undefined ? '' : ` -d ${q(commandOf(name).summary)}`;
    lines.push(`complete -c presync -n __fish_use_subcommand -a ${word}${what}`);
  }
  for (const name of COMMAND_NAMES) {
    const { summary, options } = commandOf(name);
    const [group, word] = name.split(' ');
    if (word !== undefined) {
      const others = secondWords(group ?? '').join(' ');
      lines.push(
        `complete -c presync -n ${q(`__fish_seen_subcommand_from ${group}; and not __fish_seen_subcommand_from ${others}`)} -a ${word} -d ${q(summary)}`,
      );
    }
    for (const option of options) {
      const values = valuesOf(option);
      const value =
        values.kind === 'words'
          ? ` -x -a ${q(values.words.join(' '))}`
          : values.kind === 'folder'
            ? " -x -a '(__fish_complete_directories)'"
            : values.kind === 'file'
              ? ' -r -F'
              : values.kind === 'other'
                ? ' -x'
                : '';
      lines.push(
        `complete -c presync -n ${q(seen(name))} -l ${flagOf(option).slice(2)}${value} -d ${q(optionOf(option).description)}`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}
