// Builds presync as one executable that needs nothing else installed: `npm run build:executable`.
import { stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { buildExecutable } from './lib/package/executable.ts';

const root = join(import.meta.dirname, '..');
const { path, version } = await buildExecutable(join(root, 'dist/presync'));
const { size } = await stat(path);
process.stdout.write(`${relative(root, path)}: presync ${version}, ${Math.round(size / 1e6)} MB\n`);
