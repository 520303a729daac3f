import { createInterface } from 'node:readline/promises';
import { throwIfAborted } from '@presync/runtime/errors';
import type { StatusLine } from '@presync/runtime/status-line';
import type { CommandContext } from '../command.ts';

/** Asks on the terminal. Only "y" and "yes" mean yes; the end of the input means no. */
export function createAsk(
  statusLine: StatusLine,
  signal: AbortSignal,
): NonNullable<CommandContext<'restore'>['ask']> {
  return async (lines, question) => {
    statusLine.show(undefined);
    for (const line of lines) statusLine.print(`${line}\n`);
    // Left in the terminal's own mode, so that an interrupt is a signal as everywhere.
    const terminal = createInterface({ input: process.stdin, output: process.stderr, terminal: false });
    try {
      const ended = new Promise<string>((resolve) => terminal.once('close', () => resolve('')));
      const answer = await Promise.race([terminal.question(`${question} [y/N] `, { signal }), ended]);
      return /^y(?:es)?$/i.test(answer.trim());
    } catch (error) {
      throwIfAborted(signal);
      throw error;
    } finally {
      terminal.close();
    }
  };
}
