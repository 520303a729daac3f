import type { Environment } from './systemd-words.ts';

/** A program that a shell starts. */
export interface ShellCommand {
  words: string[];
  environment: Environment;
  /** Folder of a `cd` before it, as it was written. */
  cwd: string | undefined;
}

export interface ShellOptions {
  environment: Environment;
  /** `$0`, `$1`, … */
  parameters: readonly string[];
}

/** What these do can be left out of account, or is seen to. */
const BUILTINS = new Set(
  ': [ cd chmod chown date echo exec exit export false mkdir printf set shift sleep test trap true ulimit umask unset wait'.split(
    ' ',
  ),
);

/** With these, what is run depends on what only running tells. */
const BEYOND = new Set(
  '. source eval if then else elif fi for while until do done case esac function select { } ! [['.split(' '),
);

const ASSIGNMENT = /^([A-Za-z_]\w*)=([\s\S]*)$/;

/**
 * The programs that a POSIX shell's script starts, in order, with its variables put in. Only what can be told without running anything:
 * undefined for scripts with conditions, loops, functions or command substitution.
 */
export function shellCommands(script: string, options: ShellOptions): ShellCommand[] | undefined {
  const environment: Record<string, string> = { ...options.environment };
  const commands: ShellCommand[] = [];
  let cwd: string | undefined;
  for (const line of tokenLines(joinLines(script))) {
    if (line === undefined) return undefined;
    const words: string[] = [];
    const own: Record<string, string> = {};
    for (const token of line) {
      const expanded = expand(token, { ...options, environment });
      if (expanded === undefined) return undefined;
      const assignment = words.length === 0 ? ASSIGNMENT.exec(token.text) : null;
      if (assignment === null) words.push(...expanded);
      else own[assignment[1] ?? ''] = expanded.join(' ').slice((assignment[1] ?? '').length + 1);
    }
    while (words[0] === 'exec' || words[0] === 'command') words.shift();
    const [program, ...rest] = words;
    if (program === undefined) Object.assign(environment, own);
    else if (BEYOND.has(program)) return undefined;
    else if (program === 'export') {
      for (const word of rest) {
        const assignment = ASSIGNMENT.exec(word);
        if (assignment !== null) environment[assignment[1] ?? ''] = assignment[2] ?? '';
      }
    } else if (program === 'cd') cwd = rest[0] ?? environment.HOME;
    else if (!BUILTINS.has(program)) commands.push({ words, environment: { ...environment, ...own }, cwd });
  }
  return commands;
}

/** Without comments, and without the ends of lines that a backslash joins to the next. */
function joinLines(script: string): string {
  const piece = /'[^']*'|"(?:\\[\s\S]|[^"\\])*"|\\[\s\S]|[\s\S]/y;
  let joined = '';
  let beginsWord = true;
  for (;;) {
    const found = piece.exec(script)?.[0];
    if (found === undefined) return joined;
    if (found === '\\\n') continue;
    if (found === '#' && beginsWord) {
      const end = script.indexOf('\n', piece.lastIndex);
      if (end === -1) return joined;
      piece.lastIndex = end;
      continue;
    }
    joined += found.startsWith('"')
      ? found.replaceAll(/\\(?:\n|([\s\S]))/g, (kept, next?: string) => (next === undefined ? '' : kept))
      : found;
    beginsWord = /^[\s;&|]$/.test(found);
  }
}

/** A word as it stands in the script, quotes and all. */
interface Token {
  text: string;
}

/** One simple command a line; undefined in place of what is not understood. Redirections are dropped. */
function* tokenLines(script: string): Generator<Token[] | undefined> {
  const token =
    /(?<blank>[ \t]+)|(?<redirect>\d*(?:>>|>&|<&|>\||>|<(?![<(]))[ \t]*)|(?<end>\n|;;?|&&?|\|\|?)|(?<word>(?:'[^']*'|"(?:\\[\s\S]|[^"\\])*"|\\[\s\S]|\$\{[^}]*\}|[^\s;&|<>()'"\\`])+)|(?<other>[\s\S])/g;
  let line: Token[] = [];
  let isTarget = false;
  for (const { groups = {} } of script.matchAll(token)) {
    const { redirect, end, word, other } = groups;
    if (redirect !== undefined) isTarget = true;
    else if (word !== undefined) {
      // Command substitution, also within double quotes, and the quotes that only some shells have.
      if (/(?:^|[^\\])(?:\$\(|`)|\$['"]/.test(word.replaceAll(/'[^']*'/g, "''"))) yield undefined;
      if (!isTarget) line.push({ text: word });
      isTarget = false;
    } else if (end !== undefined) {
      yield line;
      line = [];
    } else if (other !== undefined) yield undefined;
  }
  yield line;
}

/** A word's value: one word, or several, or none, where a variable is not quoted. */
function expand({ text }: Token, options: ShellOptions): string[] | undefined {
  const words: string[] = [];
  let current: string | undefined;
  let understood = true;
  const append = (piece: string): void => {
    current = (current ?? '') + piece;
  };
  const appendSplit = (value: string): void => {
    for (const [index, piece] of value.split(/[ \t\n]+/).entries()) {
      if (index > 0 && current !== undefined) {
        words.push(current);
        current = undefined;
      }
      if (piece !== '') append(piece);
    }
  };
  const lookUp = (name: string): string => {
    const value = variable(name, options);
    if (value === undefined) understood = false;
    return value ?? '';
  };
  const pieces =
    /'([^']*)'|"((?:\\[\s\S]|[^"\\])*)"|\\([\s\S])|(\$(?:\{[^}]*\}|[A-Za-z_]\w*|\d|[@*#?$!-]))|([^'"\\$]+|\$)/g;
  for (const [, single, double, escaped, name, plain] of text.matchAll(pieces)) {
    if (single !== undefined) append(single);
    else if (double === '$@') {
      const [first, ...others] = options.parameters.slice(1);
      if (first !== undefined) append(first);
      for (const other of others) {
        words.push(current ?? '');
        current = other;
      }
    } else if (double !== undefined) {
      append(
        double.replaceAll(
          /\\([\s\S])|(\$(?:\{[^}]*\}|[A-Za-z_]\w*|\d|[@*#?$!-]))/g,
          (kept, next: string | undefined, inner: string | undefined) => {
            // Several words within others.
            if (inner === '$@') understood = false;
            if (inner !== undefined) return lookUp(inner);
            return next === '\n' ? '' : '"\\`$'.includes(next ?? '') ? (next ?? '') : kept;
          },
        ),
      );
    } else if (escaped !== undefined) append(escaped === '\n' ? '' : escaped);
    else if (name !== undefined) appendSplit(lookUp(name));
    else if (plain !== undefined) {
      // A dollar that stands for itself changes how some shells split the word.
      if (plain === '$') understood = false;
      append(plain);
    }
  }
  if (!understood) return undefined;
  if (current !== undefined) words.push(current);
  return words;
}

/** The value of `$NAME`, `${NAME}`, `${NAME:-word}`, `$1`, `$@`; undefined for other forms. */
function variable(text: string, { environment, parameters }: ShellOptions): string | undefined {
  const name = text.startsWith('${') ? text.slice(2, -1) : text.slice(1);
  if (name === '@' || name === '*') return parameters.slice(1).join(' ');
  if (/^\d+$/.test(name)) return parameters[Number(name)] ?? '';
  if (/^[A-Za-z_]\w*$/.test(name)) return environment[name] ?? '';
  const fallback = /^([A-Za-z_]\w*):?-([^$`"'\\]*)$/.exec(name);
  if (fallback === null) return undefined;
  return environment[fallback[1] ?? ''] || fallback[2];
}
