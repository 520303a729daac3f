/** The configuration file of a new installation: every option, as a comment. */
import { OPTION_NAMES, optionOf } from '../../../packages/runtime/src/options.ts';
import { defaultText } from '../../../packages/runtime/src/reference.ts';

const WIDTH = 100;

export function sampleConfig(): string {
  const blocks = OPTION_NAMES.filter((name) => optionOf(name).inFile !== false).map((name) => {
    const { kind, description, default: value } = optionOf(name);
    const found = typeof value === 'function' ? undefined : value;
    const fallback = found === undefined ? defaultText(name) : undefined;
    return [
      ...comment(`${description}${fallback === undefined ? '' : ` Default: ${fallback}.`}`),
      ...comment(`Value: ${kind.allowed}.`),
      // Quoted as JSON, which YAML reads too, where a plain word could be taken for something else.
      `#${name}:${found === undefined ? '' : ` ${JSON.stringify(found)}`}`,
      '',
    ].join('\n');
  });
  return [
    '# Configuration of presync; see presync.yaml(5). Take away the # in front of what you set, and then run',
    '#   presync config check snapshotter      on a source node',
    '#   presync config check bootstrap        on a machine that is brought up from snapshots',
    '# Values that are shown are the defaults.',
    '',
    ...blocks,
  ].join('\n');
}

function comment(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + 1 + word.length > WIDTH && line !== '#') {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
