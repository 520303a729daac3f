import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

/** A reporter for `node --test` that writes one line for each test that was skipped or is still to do. */
export default async function* skipReporter(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    if (event.type !== 'test:pass' && event.type !== 'test:fail') continue;
    const { name, skip, todo, file } = event.data;
    const reason = skip ?? todo;
    if (reason === undefined || reason === false) continue;
    const where = file === undefined ? '' : `${relative(process.cwd(), file)}: `;
    yield `${where}${name}${typeof reason === 'string' && reason !== '' ? ` (${reason})` : ''}\n`;
  }
}
