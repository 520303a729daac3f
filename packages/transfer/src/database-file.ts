import { basename, dirname } from 'node:path';
import type { IndexedFile } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { classifyFile, DATABASE_ROLES, type DatabaseRole } from '@presync/node/layout';
import { PresyncError } from '@presync/runtime/errors';

/** A snapshot may hold what is on the allow-list of its backend, and nothing else, whoever signed it. */
export function assertDatabaseFile(manifest: Manifest, file: IndexedFile): void {
  const part = manifest.node.parts.find(({ path }) => path === dirname(file.path));
  const found =
    part === undefined ? undefined : classifyFile(part.backend, basename(file.path), roleOf(part.role));
  if (found === file.class) return;
  throw new PresyncError(
    'PATH_UNSAFE',
    `${file.path} is not a file of a ${part?.backend ?? 'known'} database`,
    { hint: 'do not use this snapshot' },
  );
}

function roleOf(role: string): DatabaseRole | undefined {
  return DATABASE_ROLES.find((known) => known === role);
}
