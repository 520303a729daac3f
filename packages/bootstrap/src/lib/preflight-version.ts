import {
  compareVersions,
  executableVersion,
  type NodeVersion,
  versionNumbers,
} from '@presync/node/node-version';
import { type Finding, pass, refusal, warning } from './finding.ts';
import {
  chainParts,
  type PreflightContext,
  type PreflightSubject,
  type SubjectPart,
} from './preflight-context.ts';

/**
 * A node moves a RocksDB database of an older version up, and refuses one of a later version than it knows (sdk `client/db/src/upgrade.rs`). Of ParityDB's version it
 * only refuses what is too old (parity-db `src/options.rs`): a later one it opens, whatever that comes to.
 */
export async function checkVersion({
  subject,
  node,
  restores,
  signal,
}: PreflightContext): Promise<Finding[]> {
  if (!restores || node?.executable === undefined || node.arguments === undefined) return [];
  const here = await executableVersion(node.executable, { signal });
  if ('why' in here) return [pass('version', `the node's version is not known: ${here.why}`)];
  const tooNew = chainParts(subject).filter((part) => isTooNew(part, here));
  if (tooNew.length > 0) {
    return tooNew.map(({ path, databaseVersion }) =>
      refusal(
        'version',
        'TARGET_VERSION',
        `${path} of ${subject.name} has database version ${databaseVersion}, and ${node.executable} is ${here.text}, which reads versions up to ${KNOWN_READER.rocksdb}`,
        `use ${subject.version ?? 'a later version'} of the node or later, or choose an older snapshot`,
      ),
    );
  }
  return [compareWithSource(subject, node.executable, here)];
}

/** The newest release that was seen to refuse what is later: polkadot-omni-node 1.25.1 says of version 5 that it is from the future. */
const KNOWN_READER = { from: [1, 0, 0], to: [1, 25, 1], rocksdb: 4 } as const;

function isTooNew({ backend, databaseVersion }: SubjectPart, { name, numbers }: NodeVersion): boolean {
  if (backend !== 'rocksdb' || databaseVersion === undefined || !isFromSdk(name)) return false;
  const known =
    compareVersions(numbers, KNOWN_READER.from) >= 0 && compareVersions(numbers, KNOWN_READER.to) <= 0;
  return known && Number(databaseVersion) > KNOWN_READER.rocksdb;
}

/** The executables of polkadot-sdk have one version line; others count by themselves. */
function isFromSdk(name: string): boolean {
  return /^polkadot(?:-omni-node|-parachain)?$/.test(name);
}

function compareWithSource(subject: PreflightSubject, executable: string, here: NodeVersion): Finding {
  const there = subject.version === undefined ? undefined : versionNumbers(subject.version);
  const is = `${executable} is ${here.text}`;
  if (there === undefined)
    return pass('version', `${is}; ${subject.name} does not tell the version of its node`);
  if (compareVersions(here.numbers, there) >= 0 || !isSameProgram(subject.implementation, here.name))
    return pass('version', `${is}, and ${subject.name} was made by ${nameOf(subject)}`);
  return warning(
    'version',
    `${is}, older than ${nameOf(subject)}, which made ${subject.name}: the database may be of a later form than it reads`,
    'use the version of the source node, or a later one',
  );
}

function nameOf({ implementation, version }: PreflightSubject): string {
  return [implementation, version].filter((text) => text !== undefined).join(' ');
}

/** What a node calls itself by RPC is the executable's name, or has it in it: `Parity Polkadot`. */
function isSameProgram(implementation: string | undefined, name: string): boolean {
  if (implementation === undefined) return false;
  const [told, own] = [implementation, name].map((text) => text.toLowerCase().replaceAll(/[^a-z0-9]/g, ''));
  return told === own || told === `parity${own}`;
}
