/** The checks of the places that databases are restored to. */
import { constants } from 'node:fs';
import { access, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import {
  backendOf,
  basePathOf,
  type ChainArguments,
  type ConfiguredNode,
  hostPath,
  isTemporary,
} from '@presync/node/node-arguments';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { interruptedRestore } from '@presync/transfer/restore';
import { diskKind } from './disk-kind.ts';
import { type Finding, pass, refusal, warning } from './finding.ts';
import {
  argumentsOf,
  chainParts,
  flagFor,
  type PreflightContext,
  type SubjectPart,
} from './preflight-context.ts';
import { lookForHolder, lookForOthers, names } from './target.ts';

/** `running`, `sibling` and `layout`. */
export async function checkTargets({
  subject,
  node,
  restores,
  signal,
}: PreflightContext): Promise<Finding[]> {
  const findings: Finding[] = [];
  // What is only looked at may well be open.
  for (const { basePath, ...part } of restores ? subject.parts : [])
    findings.push(...(await lookForHolder(basePath, part, { signal })));
  if (restores && findings.length === 0)
    findings.push(pass('running', 'no process that can be seen from here has it open'));
  for (const { basePath, ...part } of subject.parts) {
    const own = argumentsOf(node, part);
    // What is not said may be said where it cannot be seen.
    const told = own?.database === undefined ? undefined : backendOf(own);
    const opens = told === 'auto' ? undefined : told;
    findings.push(...(await lookForOthers(basePath, part, { opens })));
  }
  return findings;
}

/** What becomes of a database that is there. One that an interrupted restore has left is for the restore to judge. */
export async function checkExisting({ subject, restores, existing }: PreflightContext): Promise<Finding[]> {
  if (!restores) return [];
  const findings: Finding[] = [];
  const targetOf = ({ basePath, path }: SubjectPart): string => join(basePath, ...path.split('/'));
  const roots = subject.parts.filter(
    (part) => !subject.parts.some((outer) => targetOf(part).startsWith(`${targetOf(outer)}/`)),
  );
  for (const part of roots) {
    const target = targetOf(part);
    const closed = await closedFolder(dirname(target));
    if (closed !== undefined) {
      findings.push(
        refusal(
          'existing',
          'TARGET_UNWRITABLE',
          `${closed.path} cannot be written by presync (${closed.code}), and the database goes below it`,
          'run as a user who may write there, or mount the file system writable',
        ),
      );
      continue;
    }
    if ((await diskKind(target)).mountPoint === (await canonical(target))) {
      findings.push(
        refusal(
          'existing',
          'TARGET_UNWRITABLE',
          `${target} is a mount point, and cannot be replaced by a rename when the new database is whole`,
          'mount the volume at the base path or at the folder above the database',
        ),
      );
      continue;
    }
    if ((await names(target)).length === 0) continue;
    if (existing === 'reuse' || existing === 'replace') {
      const how = existing === 'reuse' ? ', and gives the chunks that are the same' : '';
      findings.push(
        pass('existing', `${target} holds a database, which stays until the new one is whole${how}`),
      );
    } else if ((await interruptedRestore(part.basePath, part.path)) === undefined) {
      findings.push(
        refusal(
          'existing',
          'TARGET_NOT_EMPTY',
          `${target} already holds a database`,
          'use --existing reuse to bring it up to the snapshot, --existing replace to put the snapshot in its place, or another base path',
        ),
      );
    }
  }
  return findings.length > 0 ? findings : [pass('existing', 'no database is there yet')];
}

/** The folder in which those that are missing would have to be made, when that cannot be. */
async function closedFolder(path: string): Promise<{ path: string; code: string } | undefined> {
  for (let current = path; ; current = dirname(current)) {
    try {
      await access(current, constants.W_OK | constants.X_OK);
      return undefined;
    } catch (error) {
      const code = errnoOf(error);
      if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return { path: current, code };
      if (code !== 'ENOENT' || dirname(current) === current) throw ioError(error, 'look at', current);
    }
  }
}

/** Whether the node looks where presync restores. */
export async function checkPaths(context: PreflightContext): Promise<Finding[]> {
  const { node, subject, basePath } = context;
  const own = node?.arguments;
  if (node === undefined || own === undefined) return [];
  const findings = [await comparePath(node, own, { role: 'main', restoredTo: basePath })];
  const hasRelay = subject.parts.some(({ role }) => role === 'relay');
  const relay = argumentsOf(node, { role: 'relay' });
  if (hasRelay && own.relayByRpc) {
    findings.push(
      warning(
        'paths',
        `${node.name} asks its relay chain by RPC, so the relay chain's database in ${subject.name} is of no use to it`,
        'take snapshots with --databases main',
      ),
    );
  } else if (hasRelay && relay !== undefined) {
    findings.push(await compareRelayPath(context, node, own, relay));
  } else if (context.restores && own.relay !== undefined && !own.relayByRpc) {
    const place = relayPlace(node, own, own.relay);
    if (place === undefined || (await names(join(place, 'chains'))).length === 0) {
      findings.push(
        warning(
          'paths',
          `${node.name} runs a relay chain's node too, and ${subject.name} has no database of it: that one syncs from nothing`,
          'take snapshots with --databases all, or restore one of the relay chain first',
        ),
      );
    }
  }
  return findings;
}

function relayPlace(node: ConfiguredNode, own: ChainArguments, relay: ChainArguments): string | undefined {
  if (relay.basePath !== undefined) return hostPath(node, relay.basePath);
  const base = basePathOf(node, own);
  return base === undefined ? undefined : hostPath(node, join(base, 'polkadot'));
}

async function compareRelayPath(
  { basePath, relayBasePath }: PreflightContext,
  node: ConfiguredNode,
  own: ChainArguments,
  relay: ChainArguments,
): Promise<Finding> {
  const restoredTo = relayBasePath ?? join(basePath, 'polkadot');
  if (relay.basePath !== undefined || isTemporary(relay))
    return comparePath(node, relay, { role: 'relay', restoredTo });
  const base = basePathOf(node, own);
  const given = base === undefined ? undefined : join(base, 'polkadot');
  return comparePath(node, { ...relay, basePath: given }, { role: 'relay', restoredTo });
}

async function comparePath(
  node: ConfiguredNode,
  own: ChainArguments,
  { role, restoredTo }: { role: 'main' | 'relay'; restoredTo: string },
): Promise<Finding> {
  const flag = flagFor({ role }, '--base-path');
  const what = role === 'relay' ? "its relay chain's data" : 'its data';
  const option = role === 'relay' ? '--relay-base-path' : '--base-path';
  const change = `put ${flagFor({ role }, `--base-path ${restoredTo}`)} ${node.where}`;
  if (isTemporary(own)) {
    const why = own.tmp ? '--tmp' : '--dev and no --base-path';
    return refusal(
      'paths',
      'TARGET_PATH',
      `${node.name} keeps ${what} in a temporary folder (${why}), and presync restores to ${restoredTo}`,
      change,
    );
  }
  const inside = basePathOf(node, own);
  const path = inside === undefined ? undefined : hostPath(node, inside);
  const said = own.basePath === undefined ? `no ${flag}` : `${flag} ${own.basePath}`;
  if (path === undefined) {
    return warning(
      'paths',
      `where ${node.name} (${said}) keeps ${what} cannot be seen from here, and presync restores to ${restoredTo}`,
      node.container === undefined ? change : 'mount that folder into the container, with --volume',
    );
  }
  if ((await canonical(path)) === (await canonical(resolve(restoredTo))))
    return pass('paths', `${node.name} keeps ${what} in ${path}, where presync restores`);
  const message = `${node.name} keeps ${what} in ${path} (${said}), and presync restores to ${restoredTo}: the node would not find it`;
  const hint = `restore with ${option} ${path}, or ${change}`;
  const unsure = own.basePath === undefined && node.obstacle !== undefined;
  return unsure ? warning('paths', message, hint) : refusal('paths', 'TARGET_PATH', message, hint);
}

/** A path without symbolic links, as far as it exists. */
async function canonical(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) throw ioError(error, 'look at', path);
    return join(await canonical(dirname(path)), basename(path));
  }
}

/** Whether the node's user may write what is restored. */
export async function checkOwner(context: PreflightContext): Promise<Finding[]> {
  const { node, restores, owner, subject } = context;
  const user = node?.user;
  if (node === undefined || user === undefined) return [];
  if (user.uid === 0) return [pass('owner', `${node.name} runs as root`)];
  const who = `${node.name} runs as ${user.name} (${user.uid}:${user.gid})`;
  const uid = owner?.uid ?? process.getuid?.() ?? 0;
  if (restores && uid !== user.uid) {
    return [
      refusal(
        'owner',
        'TARGET_OWNER',
        `${who}, and what is restored will belong to ${owner === undefined ? 'whoever runs presync' : 'owner'} (${uid}): the node could not write it`,
        `say --owner ${user.uid}:${user.gid}`,
      ),
    ];
  }
  const findings: Finding[] = [];
  for (const { basePath, path } of chainParts(subject)) {
    // The node keeps its keys and its network state in the chain's folder.
    const chain = join(basePath, ...path.split('/').slice(0, -2));
    const folders = restores ? [chain] : [chain, join(basePath, ...path.split('/'))];
    for (const folder of folders) {
      const found = await ownerOf(folder);
      if (found === undefined || mayWrite(user, found)) continue;
      findings.push(
        refusal(
          'owner',
          'TARGET_OWNER',
          `${who}, and may not write ${folder}, which belongs to ${found.uid}:${found.gid}`,
          `chown -R ${user.uid}:${user.gid} ${folder}`,
        ),
      );
    }
  }
  return findings.length > 0 ? findings : [pass('owner', `${who}, and may write there`)];
}

interface Ownership {
  uid: number;
  gid: number;
  mode: number;
}

async function ownerOf(path: string): Promise<Ownership | undefined> {
  try {
    const { uid, gid, mode } = await stat(path);
    return { uid, gid, mode };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    throw ioError(error, 'look at', path);
  }
}

function mayWrite(user: { uid: number; gid: number }, { uid, gid, mode }: Ownership): boolean {
  if (uid === user.uid) return (mode & 0o200) !== 0;
  return (gid === user.gid && (mode & 0o020) !== 0) || (mode & 0o002) !== 0;
}
