import { join } from 'node:path';
import { helpPages } from '../../packages/cli/src/program.ts';
import {
  configReference,
  configSchema,
  errorReference,
  eventReference,
  GENERATED,
} from '../../packages/runtime/src/reference.ts';
import { metricReference } from './metric-reference.ts';
import { storeReference } from './store-reference.ts';

export const ROOT = join(import.meta.dirname, '../..');

/** Columns of the help text in the reference. */
const HELP_WIDTH = 100;

function commandReference(): string {
  const pages = helpPages({ version: '', writeOut: () => {}, width: HELP_WIDTH });
  return [
    '# The command line',
    '',
    GENERATED,
    '',
    ...pages.flatMap(({ title, help }) => [`## ${title}`, '', '```text', help, '```', '']),
  ].join('\n');
}

/** Every page that is generated from the sources, with its path in the repository. */
export const REFERENCE_PAGES: readonly { path: string; content: () => string }[] = [
  { path: 'docs/reference/configuration.md', content: configReference },
  {
    path: 'docs/reference/configuration.schema.json',
    content: () => `${JSON.stringify(configSchema(), null, 2)}\n`,
  },
  { path: 'docs/reference/errors.md', content: errorReference },
  { path: 'docs/reference/events.md', content: eventReference },
  { path: 'docs/reference/metrics.md', content: metricReference },
  { path: 'docs/reference/cli.md', content: commandReference },
  { path: 'docs/reference/store-urls.md', content: storeReference },
];
