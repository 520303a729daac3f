import { fstatSync } from 'node:fs';
import type { CommandName } from '@presync/runtime/commands';
import { loadConfig } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import type { EventName } from '@presync/runtime/events';
import type { ProgramSettings } from '@presync/runtime/lifecycle';
import { createLogger } from '@presync/runtime/log';
import { createProgress } from '@presync/runtime/progress';
import { createStatusLine } from '@presync/runtime/status-line';
import type { CommandResult, ResultWriter } from './command.ts';
import { HANDLERS } from './handlers.ts';
import { createAsk } from './lib/ask.ts';
import type { Invocation } from './program.ts';

export interface Surroundings {
  version: string;
  signal: AbortSignal;
  settings: ProgramSettings;
}

/** Loads the configuration and the command's handler, runs it, and prints its result. Returns the exit code. */
export async function runCommand<C extends CommandName>(
  command: C,
  { args, commandLine }: Invocation,
  { version, signal, settings }: Surroundings,
): Promise<number> {
  const loaded = await loadConfig(command, { commandLine });
  const { json, quiet, verbose } = loaded.output;
  settings.json = json;
  settings.verbose = verbose;
  const terminal = process.stderr.isTTY === true;
  const statusLine = createStatusLine(process.stderr);
  settings.beforeReport = () => statusLine.show(undefined);
  const log = await createLogger({
    name: 'presync',
    output: statusLine,
    pretty: terminal,
    journal: isJournal(),
    quiet,
    verbose,
  });
  const progress = createProgress({ form: quiet ? 'none' : terminal ? 'bar' : 'lines', statusLine, log });
  warnOfInsecurity(loaded.explained, log);

  const load = HANDLERS[command];
  if (load === undefined) {
    throw new PresyncError('USAGE', `presync ${command} is not in this version`, {
      hint: '"presync help" lists the commands',
    });
  }
  const handler = await load();
  const stdout = createResultWriter();
  const result = await handler({
    config: loaded.values,
    loaded,
    args,
    signal,
    log,
    progress,
    stdout,
    ask: terminal && !json && process.stdin.isTTY === true ? createAsk(statusLine, signal) : undefined,
    json,
    reload: () => loadConfig(command, { commandLine }),
    onHangup: (listener) => {
      settings.onHangup = listener;
    },
    version,
  });
  statusLine.show(undefined);
  await stdout.write(printed(result, json));
  return result.exitCode ?? 0;
}

/** True when stderr is the journal of systemd, which names it by device and inode (systemd.exec(5)). */
function isJournal(): boolean {
  const named = process.env.JOURNAL_STREAM;
  if (named === undefined || named === '') return false;
  try {
    const { dev, ino } = fstatSync(2, { bigint: true });
    return named === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

function printed(result: CommandResult, json: boolean): string {
  if (json) return `${JSON.stringify(result.json, null, 2)}\n`;
  return result.text.map((line) => `${line}\n`).join('');
}

function createResultWriter(): ResultWriter {
  return {
    write: (text) =>
      new Promise((resolve) => {
        // Who closed the pipe has read enough; the work goes on to its end.
        if (text.length === 0 || !process.stdout.writable) resolve();
        else process.stdout.write(text, () => resolve());
      }),
  };
}

function warnOfInsecurity(
  explained: readonly { name: string; value: unknown }[],
  log: { warn: (event: EventName, message: string) => void },
): void {
  const on = new Set(explained.filter(({ value }) => value === true).map(({ name }) => name));
  if (on.has('insecureNoVerify')) {
    log.warn(
      'trust.disabled',
      'INSECURE: signatures are not checked, so whoever can write to the store can give this machine any database',
    );
  }
  if (on.has('insecureNoSign')) {
    log.warn(
      'signing.disabled',
      'INSECURE: the snapshot is published without a signature, and agents refuse it',
    );
  }
}
