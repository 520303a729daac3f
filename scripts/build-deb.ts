// Builds the Debian package, and the executable that is in it: `npm run build:deb`.
import { stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { buildDebianPackage } from './lib/package/debian.ts';
import { buildExecutable } from './lib/package/executable.ts';

const root = join(import.meta.dirname, '..');
const executable = await buildExecutable(join(root, 'dist/presync'));
const path = await buildDebianPackage(executable, join(root, 'dist'));
const { size } = await stat(path);
process.stdout.write(`${relative(root, path)}: ${Math.round(size / 1e6)} MB\n`);
