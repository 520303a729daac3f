/** What the executable holds of others, and under which licences. */
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

interface Description {
  name: string;
  version: string;
  license?: string;
}

/**
 * The text that goes with the executable: Node's licence, and each npm package that the files belong to, with the
 * licence that it states and the texts that it ships.
 *
 * @param inputs files relative to the repository
 */
export async function thirdParties(root: string, inputs: readonly string[]): Promise<string> {
  const folders = new Set<string>();
  for (const input of inputs) {
    const folder = /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0];
    if (folder !== undefined) folders.add(folder);
  }
  const sections = [await nodeLicence()];
  for (const folder of [...folders].toSorted()) {
    const path = join(root, folder);
    const {
      name,
      version,
      license = 'not stated',
    }: Description = JSON.parse(await readFile(join(path, 'package.json'), 'utf8'));
    const names = (await readdir(path))
      .filter((file) => /^(licen[cs]e|copying|notice)/i.test(file))
      .toSorted();
    const texts = await Promise.all(names.map((file) => readFile(join(path, file), 'utf8')));
    sections.push([`${name} ${version} (${license})`, ...texts.map((text) => text.trim())].join('\n\n'));
  }
  const line = `\n\n${'-'.repeat(80)}\n\n`;
  return `The executable of presync holds the following, each under its own licence.${line}${sections.join(line)}\n`;
}

/** Beside the `bin` folder of the running Node: its own archives have it there, and so do the packages of npm that carry it. */
async function nodeLicence(): Promise<string> {
  const path = join(dirname(process.execPath), '..', 'LICENSE');
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw new Error(`${path} is missing; build with a Node that npm or nodejs.org has packed`, {
      cause: error,
    });
  });
  return `Node.js ${process.version}\n\n${text.trim()}`;
}
