/**
 * A presync that pauses a node and then waits to be killed: `pausing-child.ts OPTIONS`, as JSON.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPauser } from '../../src/pause.ts';

const pauser = createPauser(JSON.parse(process.argv[2] ?? ''));
await pauser.pause({ signal: new AbortController().signal });
process.stdout.write('paused\n');
await sleep(600_000);
