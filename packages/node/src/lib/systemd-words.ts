/**
 * How systemd reads what it hands to a program: files of variables, and variables in a command line. Sources: systemd
 * `src/basic/env-file.c` (`parse_env_file_internal`) and `src/basic/env-util.c` (`replace_env_argv`), systemd.exec(5), systemd.service(5).
 */

export type Environment = Readonly<Record<string, string>>;

/** The variables of an `EnvironmentFile=`. Nothing in it is expanded; a later one of the same name counts. */
export function parseEnvironmentFile(text: string): Record<string, string> {
  const found: Record<string, string> = {};
  let at = 0;
  while (at < text.length) {
    const rest = text.slice(at);
    const skipped = /^(?:\s+|[#;][^\n\r]*)/.exec(rest);
    if (skipped !== null) {
      at += skipped[0].length;
      continue;
    }
    const key = /^([^=\n\r]*)=/.exec(rest);
    if (key === null) {
      at += /^[^\n\r]*/.exec(rest)?.[0].length ?? rest.length;
      continue;
    }
    at += key[0].length;
    const { value, length } = readValue(text.slice(at));
    at += length;
    const name = (key[1] ?? '').trimEnd();
    if (/^[A-Za-z_]\w*$/.test(name)) found[name] = value;
  }
  return found;
}

/** A value up to the end of its line; quoted pieces and plain ones may follow each other. */
function readValue(text: string): { value: string; length: number } {
  let value = '';
  let at = 0;
  for (;;) {
    // Blanks before a piece do not count.
    at += /^[ \t]*/.exec(text.slice(at))?.[0].length ?? 0;
    const character = text[at];
    if (character === undefined || character === '\n' || character === '\r') return { value, length: at };
    const rest = text.slice(at);
    if (character === "'") {
      const [whole = '', content = ''] = /^'([^']*)'?/.exec(rest) ?? [];
      value += content;
      at += whole.length;
    } else if (character === '"') {
      const [whole = '', content = ''] = /^"((?:\\[\s\S]|[^"\\])*)"?/.exec(rest) ?? [];
      value += content.replaceAll(/\\([\s\S])/g, (kept, next: string) =>
        next === '\n' ? '' : '"\\`$'.includes(next) ? next : kept,
      );
      at += whole.length;
    } else {
      // A plain piece goes on to the end of the line, quotes in it included.
      const [whole = ''] = /^(?:\\[\s\S]|[^\n\r\\])*\\?/.exec(rest) ?? [];
      value += withoutEscapes(trimPlain(whole));
      at += whole.length;
    }
  }
}

/** Without the blanks at its end, other than one that a backslash keeps. */
function trimPlain(text: string): string {
  const trimmed = text.replace(/\s+$/, '');
  return /(?:^|[^\\])(?:\\\\)*\\$/.test(trimmed) ? text.slice(0, trimmed.length + 1) : trimmed;
}

function withoutEscapes(text: string): string {
  return text.replaceAll(/\\([\s\S]?)/g, (_, next: string) => (next === '\n' || next === '\r' ? '' : next));
}

/**
 * Puts variables into the words of an `ExecStart=`: `${NAME}` anywhere, `$NAME` as a word of its own, which then is split at blanks, and `$$` for a
 * dollar. What is not set is empty.
 */
export function expandWords(words: readonly string[], environment: Environment): string[] {
  return words.flatMap((word) => {
    if (/^\$[^{$]/.test(word)) return splitWords(environment[word.slice(1)] ?? '');
    return [
      word.replaceAll(/\$(?:\$|\{([^}]*)\})/g, (_, name: string | undefined) =>
        name === undefined ? '$' : (environment[name] ?? ''),
      ),
    ];
  });
}

/** Words between blanks; quotes hold blanks together. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  const word = /(?:'[^']*'?|"(?:\\[\s\S]|[^"\\])*"?|\\[\s\S]?|[^\s'"\\])+/g;
  for (const [found] of text.matchAll(word)) {
    words.push(
      found.replaceAll(
        /'([^']*)'?|"((?:\\[\s\S]|[^"\\])*)"?|\\([\s\S]?)/g,
        (_, single: string | undefined, double: string | undefined, escaped: string | undefined) =>
          single ?? double?.replaceAll(/\\([\s\S])/g, '$1') ?? escaped ?? '',
      ),
    );
  }
  return words;
}
