import { setTimeout as delay } from 'node:timers/promises';
import { PresyncError } from '../../src/errors.ts';
import { runProgram } from '../../src/lifecycle.ts';

const mode = process.argv[2];
const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Waits until it is stopped, and then cleans up for so long. */
async function drain(signal: AbortSignal, cleanUpMs: number): Promise<never> {
  say('ready');
  try {
    await delay(60_000, undefined, { signal });
  } catch (error) {
    await delay(cleanUpMs);
    say('clean');
    throw error;
  }
  throw new Error('nobody stopped it');
}

await runProgram({
  name: 'presync',
  json: process.argv.includes('--json'),
  verbose: process.argv.includes('--verbose'),
  run: async (signal) => {
    switch (mode) {
      case 'number':
        return 3;
      case 'nothing':
        return undefined;
      case 'idle':
        // Nothing that keeps the process alive; without a guard Node would end it with 0, or 13.
        await new Promise<never>((_resolve, reject) => {
          delay(300, undefined, { ref: false }).then(() => reject(new PresyncError('GATE_SHUT', 'late')));
        });
        break;
      case 'known':
        throw new PresyncError('GATE_SHUT', 'the node syncs from https://user:hunter2@example.org/', {
          hint: 'wait until it has caught up',
          cause: new Error('the cause'),
        });
      case 'unknown':
        throw new TypeError('x is not a function');
      case 'drain':
        return drain(signal, 200);
      case 'slow-drain':
        return drain(signal, 60_000);
      case 'bad-drain':
        return drain(signal, 10).catch(() => {
          throw new PresyncError('NODE_RESUME_FAILED', 'the node stays paused');
        });
      case 'rejection':
        void Promise.reject(new RangeError('nobody caught this'));
        return drain(signal, 200);
      case 'exception':
        setTimeout(() => {
          throw new RangeError('nobody caught this');
        }, 10);
        return drain(signal, 200);
      case 'flood':
        for (let i = 0; i < 2000 && process.stdout.writable; i++) {
          await new Promise<void>((resolve) =>
            process.stdout.write(`${'x'.repeat(1000)}\n`, () => resolve()),
          );
        }
        process.stderr.write('done\n');
        return 0;
    }
    return undefined;
  },
});
