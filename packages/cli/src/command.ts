import type { CommandConfig, CommandName } from '@presync/runtime/commands';
import type { LoadedConfig } from '@presync/runtime/config';
import type { RootLogger } from '@presync/runtime/log';
import type { ProgressSink } from '@presync/runtime/progress';

/** What a command is given. */
export interface CommandContext<C extends CommandName> {
  /** The command's options, checked; the required ones are there. */
  config: CommandConfig<C>;
  /** The same, with the source of each value and the file that was read. */
  loaded: LoadedConfig<C>;
  /** Positional arguments. */
  args: readonly string[];
  /** Fires when the command is to stop and clean up. */
  signal: AbortSignal;
  log: RootLogger;
  progress: ProgressSink;
  /** For results that are too large to be returned; not to be used in JSON mode. */
  stdout: ResultWriter;
  /** Asks whoever sits at the terminal, below the lines that explain it; undefined where nobody can be asked. */
  ask: ((lines: readonly string[], question: string) => Promise<boolean>) | undefined;
  /** True when the result is one JSON document. */
  json: boolean;
  /** Reads the configuration again, as it was read at the start. */
  reload: () => Promise<LoadedConfig<C>>;
  /** Calls the listener on each SIGHUP, which stops the command otherwise. */
  onHangup: (listener: () => void) => void;
  /** Of presync, as in its package. */
  version: string;
}

export interface ResultWriter {
  /** Resolves when it is on its way, also when nobody reads any more. */
  write(text: string | Uint8Array): Promise<void>;
}

export interface CommandResult {
  /** The document that `--json` prints. */
  json: unknown;
  /** What is printed otherwise, line by line, without line ends. */
  text: readonly string[];
  /** Default 0. */
  exitCode?: number | undefined;
}

/** A command's work. It throws PresyncErrors, and never ends the process. */
export type CommandHandler<C extends CommandName> = (context: CommandContext<C>) => Promise<CommandResult>;
