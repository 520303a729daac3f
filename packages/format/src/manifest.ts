import { PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';
import {
  channelSchema,
  countSchema,
  FORMAT_VERSION,
  invalid,
  parseJson,
  parseValue,
  sequenceSchema,
  sha256Schema,
  timeSchema,
  tooNew,
} from './documents.ts';
import { MAX_FILES, MAX_INDEX_LENGTH, MAX_PARTS } from './limits.ts';
import { isSafePath, isSafeSegment } from './paths.ts';

/** Several databases, of which a node must never see some without the others. */
export const PARTS_FEATURE = 'parts';

/** Features that this reader knows. A snapshot that requires any other is refused. */
export const KNOWN_FEATURES: readonly string[] = [PARTS_FEATURE];

const hashSchema = z.string().regex(/^0x[0-9a-f]{64}$/, 'must be 0x and 64 lower-case hexadecimal digits');
const textSchema = z.string().max(255);
const blockSchema = z.strictObject({ number: countSchema, hash: hashSchema });

const partSchema = z.strictObject({
  /** `main` for the chain's own database; `relay`, `parachains` and `relay-parachains` need the feature `parts`. */
  role: z.string().refine(isSafeSegment, 'must be a plain name'),
  backend: z.enum(['rocksdb', 'paritydb']),
  /** The database folder, relative to the base path; every file of the part lies directly in it. */
  path: z.string().refine(isSafePath, 'must be a safe relative path'),
  /** The backend's or Substrate's own database version, as the database states it. */
  databaseVersion: textSchema,
  /** The database's own identity, so that one that was made anew is not taken for the old one. */
  identity: textSchema,
});

const manifestSchema = z.strictObject({
  presync: z.literal('manifest'),
  format: z.strictObject({
    version: z.literal(1),
    minReader: z.int().min(1),
    features: z.array(textSchema).max(64),
  }),
  /** The repository that it was written to: its id, and the SHA-256 of its `presync.json`, byte for byte. */
  repository: z.strictObject({ id: z.uuid(), sha256: sha256Schema }),
  channel: channelSchema,
  sequence: sequenceSchema,
  /** The manifest before it in the channel, byte for byte; null for the first. */
  previous: z.strictObject({ sequence: sequenceSchema, sha256: sha256Schema }).nullable(),
  created: timeSchema,
  expires: timeSchema.nullable(),
  chain: z.strictObject({
    specId: z.string().refine(isSafeSegment, 'must be a chain spec id'),
    name: textSchema.nullable(),
    genesisHash: hashSchema,
    /** A finalized block that the copy is known to hold. Null when no node answered, as for a stopped one. */
    anchor: blockSchema.nullable(),
    /** The best block by RPC just before the pause: an upper bound of what the copy holds. */
    head: blockSchema.nullable(),
    /** Milliseconds, as observed; null when unknown. */
    blockTimeMs: z.number().min(0).nullable(),
  }),
  node: z.strictObject({
    implementation: textSchema.nullable(),
    version: textSchema.nullable(),
    statePruning: textSchema.nullable(),
    blocksPruning: textSchema.nullable(),
    parts: z.array(partSchema).min(1).max(MAX_PARTS),
  }),
  /** Bytes: `bytes` of files, `unique` of distinct chunks' plaintext, `stored` of distinct chunks' objects, `added` of objects put by this snapshot. */
  totals: z.strictObject({
    files: countSchema.max(MAX_FILES),
    chunks: countSchema,
    bytes: countSchema,
    unique: countSchema,
    stored: countSchema,
    added: countSchema,
  }),
  pause: z.strictObject({ strategy: textSchema, seconds: z.number().min(0) }),
  /** `size` and `sha256` of the stored object; `length` of its plaintext. */
  index: z.strictObject({
    size: z.int().min(1).max(MAX_INDEX_LENGTH),
    sha256: sha256Schema,
    length: z.int().min(1).max(MAX_INDEX_LENGTH),
  }),
});

/** The root of a snapshot. Everything else is reached, and proved, from it. */
export type Manifest = z.infer<typeof manifestSchema>;
export type ManifestPart = z.infer<typeof partSchema>;
export type BlockReference = z.infer<typeof blockSchema>;

/** The exact bytes that are signed. */
export function encodeManifest(manifest: Manifest): Buffer {
  return Buffer.from(JSON.stringify(parseValue(manifest, manifestSchema, 'the manifest to be written')));
}

/** Parses the signed bytes. A newer format, or a feature that this reader lacks, is FORMAT_TOO_NEW; all else FORMAT_INVALID. */
export function parseManifest(bytes: Uint8Array, what: string): Manifest {
  const json = parseJson(bytes, what);
  const head = z
    .looseObject({
      presync: z.literal('manifest'),
      format: z.looseObject({
        version: z.int().min(1),
        minReader: z.int().min(1),
        features: z.array(textSchema),
      }),
    })
    .safeParse(json);
  if (!head.success) throw invalid(what, 'it is not a presync manifest');
  const { version, minReader, features } = head.data.format;
  if (minReader > FORMAT_VERSION) throw tooNew(what, `a reader of format ${minReader}`);
  const unknown = features.filter((feature) => !KNOWN_FEATURES.includes(feature));
  if (unknown.length > 0) throw tooNew(what, `the feature ${JSON.stringify(unknown[0])}`);
  if (version > FORMAT_VERSION) throw tooNew(what, `format version ${version}`);
  const manifest = parseValue(json, manifestSchema, what);
  const paths = new Set(manifest.node.parts.map((part) => part.path.toLowerCase()));
  if (paths.size !== manifest.node.parts.length) throw invalid(what, 'node.parts: two parts share a path');
  if (manifest.node.parts[0]?.role !== 'main' && features.includes(PARTS_FEATURE))
    throw invalid(what, 'node.parts: the first is not the main one');
  return manifest;
}

export interface ManifestExpectations {
  now: Date;
  /** The repository that it was read from. */
  repository: { id: string; sha256: string };
  channel: string;
  sequence: number;
  /** The highest sequence of this channel that this machine has accepted; 0 when none. */
  sequenceFloor: number;
  /** The genesis hash that the user demands, if any. */
  genesisHash?: string | undefined;
}

/** The rules that a well-formed, trusted manifest must meet here and now. */
export function checkManifest(manifest: Manifest, expected: ManifestExpectations): void {
  const name = `snapshot ${manifest.channel}#${manifest.sequence}`;
  if (
    manifest.repository.id !== expected.repository.id ||
    manifest.channel !== expected.channel ||
    manifest.sequence !== expected.sequence
  ) {
    throw new PresyncError(
      'MANIFEST_CORRUPT',
      `the manifest under ${expected.channel}#${expected.sequence} is of ${name} of repository ${manifest.repository.id}: it was moved or replayed`,
      { hint: 'do not use this snapshot; find out who wrote to the repository' },
    );
  }
  if (manifest.repository.sha256 !== expected.repository.sha256) {
    throw new PresyncError(
      'MANIFEST_CORRUPT',
      `presync.json is not the one under which ${name} was written`,
      {
        hint: 'restore presync.json from a copy of the repository',
      },
    );
  }
  if (expected.genesisHash !== undefined && manifest.chain.genesisHash !== expected.genesisHash) {
    throw new PresyncError(
      'MANIFEST_FOREIGN',
      `${name} is of the chain with genesis ${manifest.chain.genesisHash}, not ${expected.genesisHash}`,
      {
        hint: 'check --channel and --store, or --genesis',
      },
    );
  }
  if (manifest.expires !== null && expected.now.getTime() >= Date.parse(manifest.expires)) {
    throw new PresyncError('MANIFEST_EXPIRED', `${name} expired at ${manifest.expires}`, {
      hint: "take a new snapshot on the source node, and check this machine's clock",
    });
  }
  if (manifest.sequence < expected.sequenceFloor) {
    throw new PresyncError(
      'MANIFEST_ROLLED_BACK',
      `${name} is older than #${expected.sequenceFloor}, which this machine has seen`,
      {
        hint: 'find out why the repository went back; to restore an older snapshot on purpose, name it with --snapshot',
      },
    );
  }
}
