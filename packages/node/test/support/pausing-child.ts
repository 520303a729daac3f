/**
 * A presync that pauses a process and then waits to be killed: `pausing-child.ts PID STATE_DIR BUDGET_MS [SHELL…]`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPauser } from '../../src/pause.ts';

const [pid, stateDir = '', budgetMs, ...shell] = process.argv.slice(2);
const pauser = createPauser({
  strategy: 'signal',
  pid: Number(pid),
  stateDir,
  budgetMs: Number(budgetMs),
  shell: shell.length === 0 ? undefined : shell,
});
await pauser.pause({ signal: new AbortController().signal });
process.stdout.write('paused\n');
await sleep(600_000);
