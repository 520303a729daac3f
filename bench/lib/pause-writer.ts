// Stands for a node: writes to the hot files of a database folder until it is killed. Argument: the folder.
import { closeSync, existsSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { HOT_FILES } from './pause-tree.ts';

const [dir = ''] = process.argv.slice(2);
const names = Object.values(HOT_FILES).flat();
const open = names
  .map((name) => join(dir, name))
  .filter((path) => existsSync(path))
  .map((path) => openSync(path, 'r+'));
const block = Buffer.alloc(4096, 1);
for (let round = 0; ; round++) {
  for (const fd of open) writeSync(fd, block, 0, block.length, (round % 256) * block.length);
  if (round === 0) process.stdout.write('writing\n');
  if (open.length === 0) break;
  await setImmediate();
}
for (const fd of open) closeSync(fd);
