import { join } from 'node:path';
import type { Manifest, ManifestPart } from '@presync/format/manifest';
import { RELAY_FOLDER } from '@presync/node/layout';

/** Where a restore goes. */
export interface RestorePlaces {
  /** The node's base path. */
  basePath: string;
  /** That of its relay chain, where it has one of its own. */
  relayBasePath?: string | undefined;
}

/** The base path of a part, and its path below that. */
export function placeOf(
  part: Pick<ManifestPart, 'path'>,
  { basePath, relayBasePath }: RestorePlaces,
): { basePath: string; path: string } {
  const prefix = `${RELAY_FOLDER}/`;
  if (relayBasePath === undefined || !part.path.startsWith(prefix)) return { basePath, path: part.path };
  return { basePath: relayBasePath, path: part.path.slice(prefix.length) };
}

/** Every part with its database folder. */
export function partTargets(manifest: Manifest, places: RestorePlaces): { part: string; target: string }[] {
  return manifest.node.parts.map((part) => {
    const { basePath, path } = placeOf(part, places);
    return { part: part.path, target: join(basePath, ...path.split('/')) };
  });
}
