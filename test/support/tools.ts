import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** An executable that `scripts/install-test-tools.sh` installs: what the variable names, on the PATH, or in the repository's `.cache/tools`. Undefined without one. */
export function findTool(binary: string, variable: string): string | undefined {
  const named = process.env[variable];
  const candidates = [
    ...(named === undefined || named === '' ? [] : [named]),
    ...(process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, binary)),
    join(import.meta.dirname, '../../.cache/tools', binary),
  ];
  return candidates.find((path) => existsSync(path));
}
