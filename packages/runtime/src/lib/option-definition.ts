import type { OptionKind } from './option-kinds.ts';

/** One option. The key in `OPTIONS` is its name in a file; flag and environment variable follow from it. */
export interface OptionDefinition {
  readonly kind: OptionKind<unknown>;
  readonly description: string;
  /** As it would stand in a file, or a function that finds it out on this machine. */
  readonly default?: unknown;
  /** What help says of a default that is found out. */
  readonly defaultText?: string;
  /** In place of `PRESYNC_<SNAKE>`. */
  readonly environment?: string;
  /** True when the value must never be printed in an error: people paste keys where a file name belongs. */
  readonly secret?: boolean;
  /** False for what makes sense only where the command is given. */
  readonly inFile?: boolean;
}
