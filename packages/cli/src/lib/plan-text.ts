import type { RestorePlan } from '@presync/bootstrap/plan-restore';
import { isWarpFaster } from '@presync/bootstrap/planner';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { findingLines } from './preflight-text.ts';

/** A plan for people, line by line. */
export function planLines(plan: RestorePlan): string[] {
  const { channel, sequence, created, ageSeconds, anchor, head, trustedBy, targets } = plan;
  return [
    `Plan: restore ${channel}#${sequence}`,
    ...plan.passed.map(
      (one) =>
        `  NOT USED    ${one.sequence === null ? one.source : `#${one.sequence}`}: ${one.code}: ${one.reason}`,
    ),
    `  taken       ${created}, ${formatDuration(ageSeconds * 1000)} ago`,
    ...(anchor === null ? [] : [`  holds       block ${anchor.number} ${anchor.hash}`]),
    ...(head === null ? [] : [`              and no block above ${head.number}`]),
    `  signed by   ${trustedBy.length > 0 ? trustedBy.join(', ') : 'NOBODY WHO WAS CHECKED (--insecure-no-verify)'}`,
    `  comes from  ${plan.sources.join(', then ')}`,
    `  goes to     ${targets.map(({ target }) => target).join(', ')}`,
    `  there now   ${thereNow(plan)}`,
    `  to fetch    ${toFetch(plan)}`,
    ...plan.room.map((room) => `  room        ${roomOf(room, plan)}`),
    ...timeLines(plan),
    ...plan.findings.filter(({ verdict }) => verdict !== 'pass').flatMap(findingLines),
  ];
}

function thereNow({ targets, existing, interrupted, room }: RestorePlan): string {
  const begun =
    interrupted === null
      ? ''
      : `; the restore of #${interrupted} was begun here, and what it brought is used`;
  if (!targets.some(({ holdsDatabase }) => holdsDatabase)) return `no database${begun}`;
  if (existing === 'refuse') return `a database, and nobody said that it may go${begun}`;
  const kept = existing === 'reuse' ? 'what it has in common with the snapshot is copied from it, and ' : '';
  const fate = room.some(({ removesOldFirst }) => removesOldFirst)
    ? 'IT IS REMOVED BEFORE THE NEW ONE IS THERE, because the room does not suffice for both (--free-room)'
    : `${kept}it stays until the new one is complete, and is then removed`;
  return `a database: ${fate}${begun}`;
}

function toFetch({ fetch, databaseBytes }: RestorePlan): string {
  const { fetchBytes, fetchChunks, inPlaceBytes, likelyReused, perhapsReused } = fetch;
  const least = fetchBytes - likelyReused - perhapsReused;
  const upTo =
    likelyReused + perhapsReused > 0
      ? `between ${formatBytes(least)} and ${formatBytes(fetchBytes)}, by how much of the old database can be reused`
      : `${formatBytes(fetchBytes)} in ${fetchChunks} chunks`;
  const inPlace =
    inPlaceBytes > 0 ? `; ${formatBytes(inPlaceBytes)} are in place from an interrupted attempt` : '';
  return `${upTo}, for a database of ${formatBytes(databaseBytes)}${inPlace}`;
}

function roomOf(
  { dir, free, needed, old, enough, removesOldFirst }: RestorePlan['room'][number],
  { targets }: RestorePlan,
): string {
  const here = `${formatBytes(free)} free at ${dir}, ${formatBytes(needed)} needed`;
  if (!enough && !removesOldFirst) return `${here}: NOT ENOUGH`;
  const after = free + old - needed;
  if (removesOldFirst)
    return `${here}: enough once the old database (${formatBytes(old)}) is gone; ${formatBytes(after)} free afterwards`;
  const replaced = targets.some(({ holdsDatabase }) => holdsDatabase) && old > 0;
  return replaced
    ? `${here}; ${formatBytes(free - needed)} free while both databases are there, ${formatBytes(after)} afterwards`
    : `${here}; ${formatBytes(free - needed)} free afterwards`;
}

function timeLines({ bytesPerSecond, fetch, estimate, importRate, warpSyncSeconds }: RestorePlan): string[] {
  if (bytesPerSecond === null) return ['  takes       not known: no chunk came while the speed was measured'];
  const at = `at ${formatBytes(bytesPerSecond)}/s, as measured just now`;
  const seconds = (fetch.fetchBytes - fetch.likelyReused) / bytesPerSecond;
  const lines = [`  takes       about ${formatDuration(seconds * 1000)} ${at}, if the disk keeps up`];
  if (estimate === null) return lines;
  const { blocksBehind, catchUpSeconds, readySeconds } = estimate;
  lines.push(
    catchUpSeconds === null || readySeconds === null
      ? `  then        the node NEVER catches up: the chain makes blocks faster than ${importRate} a second (--import-rate)`
      : `  then        about ${blocksBehind} blocks to catch up with, ${formatDuration(catchUpSeconds * 1000)} at ${importRate} a second; ready in about ${formatDuration(readySeconds * 1000)} (an estimate)`,
  );
  if (warpSyncSeconds !== null)
    lines.push(
      `  warp sync   takes ${formatDuration(warpSyncSeconds * 1000)} by --warp-sync-time: ${isWarpFaster(estimate, warpSyncSeconds) ? 'WARP SYNC IS FASTER' : 'the snapshot is faster'}`,
    );
  return lines;
}
