import type { RestoreDatabaseResult } from '@presync/bootstrap/restore-database';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import type { SourceReport } from '@presync/store/sources';
import { planLines } from './plan-text.ts';
import { findingLines } from './preflight-text.ts';

/** What `--json` and `--report` say of a restore. */
export function restoreDocument(result: RestoreDatabaseResult, seconds: number): Record<string, unknown> {
  const { snapshot, restored, kept, targets, sources, passed, findings, plan } = result;
  const manifest = snapshot?.manifest;
  return {
    channel: manifest?.channel ?? null,
    sequence: manifest?.sequence ?? null,
    created: manifest?.created ?? null,
    manifestSha256: snapshot?.sha256 ?? null,
    trustedBy: snapshot?.trustedBy ?? [],
    anchor: manifest?.chain.anchor ?? null,
    totals: manifest?.totals ?? null,
    targets,
    kept,
    restored: restored ?? null,
    preflight: findings,
    /** Nothing was restored, and the node begins with an empty database. */
    warpSync: snapshot === undefined && !kept,
    passedOver: passed,
    plan: plan ?? null,
    sources,
    seconds,
  };
}

/** The same for people. */
export function restoreLines(result: RestoreDatabaseResult, seconds: number): string[] {
  const { snapshot, restored, kept, targets, sources, findings, plan } = result;
  const places = targets.join(', ');
  if (kept) return [`${places} holds a whole database already, and --existing says keep. Nothing was done.`];
  if (snapshot === undefined) {
    return [
      'NOTHING WAS RESTORED: no snapshot can be used, and --fallback says warp.',
      'Start the node with --sync warp; it begins with an empty database.',
    ];
  }
  const { manifest, trustedBy } = snapshot;
  const name = `${manifest.channel}#${manifest.sequence} of ${manifest.created}`;
  if (restored === undefined) {
    return [
      ...(plan === undefined ? [] : planLines(plan)),
      ...findings.flatMap(findingLines),
      `${name} would be restored to ${places}. Nothing was done.`,
    ];
  }
  const { anchor } = manifest.chain;
  return [
    `${name} is restored to ${places}.`,
    `  database    ${restored.files} files, ${formatBytes(restored.bytes)}`,
    `  fetched     ${formatBytes(restored.fetchedBytes)} in ${restored.fetchedChunks} chunks`,
    ...(sources.length > 1 ? sources.map(sourceLine) : []),
    ...(restored.resumedChunks > 0
      ? [`  resumed     ${restored.resumedChunks} chunks were there from an earlier attempt`]
      : []),
    ...(restored.reusedChunks > 0
      ? [`  reused      ${restored.reusedChunks} chunks of the old database`]
      : []),
    ...(restored.removedOld
      ? ['  removed     the old database, before this one was there, to make room']
      : []),
    ...(anchor === null ? [] : [`  holds       block ${anchor.number} ${anchor.hash}`]),
    `  signed by   ${trustedBy.length > 0 ? trustedBy.join(', ') : 'NOBODY WHO WAS CHECKED'}`,
    `  took        ${formatDuration(seconds * 1000)}`,
    'The node may be started now.',
  ];
}

function sourceLine({ location, objects, bytes, failures, hedges, dropped }: SourceReport): string {
  const counts = Object.entries(failures).map(([code, count]) => `${count} × ${code}`);
  const notes = [
    ...(counts.length > 0 ? [`failed ${counts.join(', ')}`] : []),
    ...(hedges > 0 ? [`${hedges} second calls`] : []),
    ...(dropped === undefined ? [] : [`given up: ${dropped}`]),
  ];
  return `  source      ${[`${location}: ${objects} chunks, ${formatBytes(bytes)}`, ...notes].join('; ')}`;
}
