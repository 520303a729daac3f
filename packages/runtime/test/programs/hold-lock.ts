import { acquireLock } from '../../src/lock.ts';

const [dir = '', name = ''] = process.argv.slice(2);
await acquireLock({ dir, name, signal: new AbortController().signal });
process.stdout.write('held\n');
setInterval(() => {}, 60_000);
