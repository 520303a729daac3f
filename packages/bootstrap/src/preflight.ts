import type { Manifest } from '@presync/format/manifest';
import type { Backend } from '@presync/node/layout';
import { type ConfiguredNode, configuredNode, type NodeSource } from '@presync/node/node-arguments';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { OptionValues } from '@presync/runtime/options';
import type { ClockSkew } from '@presync/store/server-time';
import { placeOf } from '@presync/transfer/part-targets';
import type { Snapshot } from '@presync/transfer/repository';
import { CHECKS, type CheckId, type Finding, refusal } from './lib/finding.ts';
import type { PreflightContext, PreflightSubject, SubjectPart } from './lib/preflight-context.ts';
import { checkClock, checkDisk, checkFiles, checkRoom } from './lib/preflight-machine.ts';
import {
  checkArguments,
  checkBackend,
  checkChain,
  checkGenesis,
  checkPruning,
} from './lib/preflight-node.ts';
import { checkExisting, checkOwner, checkPaths, checkTargets } from './lib/preflight-place.ts';
import { checkVersion } from './lib/preflight-version.ts';

export { CHECKS, type CheckId, type Finding } from './lib/finding.ts';
export type { PreflightSubject, SubjectPart } from './lib/preflight-context.ts';

/** What is known of the node and of this machine, from configuration. */
export interface PreflightSettings {
  /** Where the node's own arguments stand. */
  node?: NodeSource | undefined;
  /** Checks whose refusals are told, and not heeded. */
  ignore: OptionValues['preflightIgnore'];
  /** Bytes that must stay free for the node. */
  reserve: number;
  /** Compares this machine's clock with that of the store. */
  measureClock?: ((signal: AbortSignal) => Promise<ClockSkew | undefined>) | undefined;
}

export interface PreflightOptions extends PreflightSettings {
  subject: PreflightSubject;
  basePath: string;
  relayBasePath?: string | undefined;
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  /** The old database may be removed first where the disk has no room for both. */
  freeRoom?: boolean | undefined;
  /** False when nothing will be written, and a database that is there is looked at. */
  restores: boolean;
  owner?: { uid: number; gid: number } | undefined;
  signal: AbortSignal;
}

/**
 * Looks at everything that can stand against a restore, or against a node that opens what is restored, and says of each thing what is and what to change. Nothing is
 * written. The findings come in the order of `CHECKS`.
 *
 * @throws IO_FAILED when something cannot be looked at, ABORTED
 */
export async function preflight(options: PreflightOptions): Promise<Finding[]> {
  const { signal, subject } = options;
  throwIfAborted(signal);
  const [read, clock] = await Promise.all([
    readNode(options),
    // What is kept needs no store.
    options.restores ? options.measureClock?.(signal) : undefined,
  ]);
  const node = read instanceof Refused ? undefined : read;
  const context: PreflightContext = {
    subject,
    basePath: options.basePath,
    relayBasePath: options.relayBasePath,
    restores: options.restores,
    existing: options.existing,
    freeRoom: options.freeRoom,
    owner: options.owner,
    node,
    reserve: options.reserve,
    clock,
    signal,
  };
  const findings = await Promise.all([
    checkTargets(context),
    checkExisting(context),
    read instanceof Refused ? [read.finding] : checkArguments(context),
    checkGenesis(context),
    checkChain(context),
    checkBackend(context),
    checkPruning(context),
    checkVersion(context),
    checkPaths(context),
    checkOwner(context),
    checkRoom(context),
    checkDisk(context),
    checkFiles(context),
    checkClock(context),
  ]);
  const order = Object.keys(CHECKS);
  return findings
    .flat()
    .toSorted((a, b) => order.indexOf(a.check) - order.indexOf(b.check))
    .map((finding) => overrule(finding, options.ignore));
}

/** A unit that cannot be read. */
class Refused {
  readonly finding: Finding;

  constructor(finding: Finding) {
    this.finding = finding;
  }
}

async function readNode({ node, signal }: PreflightOptions): Promise<ConfiguredNode | Refused | undefined> {
  if (node === undefined) return undefined;
  try {
    return await configuredNode(node, { signal });
  } catch (error) {
    if (!isPresyncError(error, 'CONFIG_INVALID')) throw error;
    return new Refused(refusal('arguments', 'TARGET_NODE', error.message, error.hint ?? 'check --unit'));
  }
}

function overrule(finding: Finding, ignore: PreflightOptions['ignore']): Finding {
  const ignored: readonly string[] = ignore;
  if (finding.verdict !== 'refusal' || !ignored.includes(finding.check)) return finding;
  return { ...finding, verdict: 'warning', overruled: true };
}

/** What a snapshot brings, as far as its manifest tells. */
export function subjectOf(
  { manifest }: Pick<Snapshot, 'manifest'>,
  places: { basePath: string; relayBasePath?: string | undefined; genesisHash?: string | undefined },
): PreflightSubject {
  const { chain, node, totals } = manifest;
  return {
    name: nameOf(manifest),
    specId: chain.specId,
    genesisHash: chain.genesisHash,
    genesisDemanded: places.genesisHash !== undefined,
    implementation: node.implementation ?? undefined,
    version: node.version ?? undefined,
    statePruning: node.statePruning ?? undefined,
    blocksPruning: node.blocksPruning ?? undefined,
    // Repeated chunks, zeros above all, are counted once: holes take no room.
    bytes: Math.min(totals.bytes, totals.unique),
    files: totals.files,
    parts: node.parts.map((part) => ({ ...part, ...placeOf(part, places) })),
  };
}

function nameOf({ channel, sequence }: Manifest): string {
  return `snapshot ${channel}#${sequence}`;
}

/** Checks that hold the snapshot against the node: another snapshot may pass them. */
const ABOUT_SNAPSHOT: ReadonlySet<CheckId> = new Set(['genesis', 'chain', 'backend', 'pruning', 'version']);

/** True when something is refused, and nothing but what another snapshot may do better. */
export function isOnlyAboutSnapshot(findings: readonly Finding[]): boolean {
  const refusals = findings.filter(({ verdict }) => verdict === 'refusal');
  return refusals.length > 0 && refusals.every(({ check }) => ABOUT_SNAPSHOT.has(check));
}

/** Refusals, all of them, with the code of the first. */
export class PreflightError extends PresyncError {
  readonly findings: readonly Finding[];

  constructor(findings: readonly Finding[]) {
    const refusals = findings.filter(({ verdict }) => verdict === 'refusal');
    const [first] = refusals;
    const many = refusals.length > 1;
    super(
      first?.code ?? 'INTERNAL',
      many
        ? `${refusals.length} things stand against this restore: ${enumerated(refusals.map(({ message }) => message))}`
        : (first?.message ?? 'nothing stands against this restore'),
      {
        hint: many ? enumerated(refusals.map(({ hint }) => hint ?? 'see above')) : (first?.hint ?? undefined),
      },
    );
    this.findings = findings;
  }
}

function enumerated(texts: readonly string[]): string {
  return texts.map((text, index) => `(${index + 1}) ${text}`).join('; ');
}

/** The backend that the node was found to be told to open, in spite of another database beside it. */
export function toldBackend(
  findings: readonly Finding[],
  { backend }: Pick<SubjectPart, 'backend'>,
): Backend | undefined {
  const isLeftAlone = findings.some(({ check, verdict }) => check === 'sibling' && verdict === 'warning');
  return isLeftAlone ? backend : undefined;
}

/** Logs what somebody should know of, and throws all refusals together. */
export function heed(findings: readonly Finding[], log: Logger): void {
  for (const { check, verdict, message, hint, overruled } of findings) {
    if (overruled)
      log.warn('preflight.overruled', `OVERRULED by --preflight-ignore: ${message}`, { check, hint });
    else if (verdict === 'warning') log.warn('preflight.warned', message, { check, hint });
    else if (verdict === 'pass') log.debug('preflight.passed', message, { check });
  }
  const refusals = findings.filter(({ verdict }) => verdict === 'refusal');
  if (refusals.length === 0) return;
  const checks = [...new Set(refusals.map(({ check }) => check))];
  log.error('preflight.refused', `the preflight refuses: ${checks.join(', ')}`, {
    checks,
    findings: refusals,
  });
  throw new PreflightError(findings);
}
