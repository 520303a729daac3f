import { messageOf, PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';
import { SHA256_PATTERN } from './digest.ts';
import { MAX_CHUNK_SIZE, MAX_DOCUMENT_SIZE, MIN_CHUNK_SIZE } from './limits.ts';
import { isChannel } from './paths.ts';

/** The format's version: what this code writes, and the newest that it reads. */
export const FORMAT_VERSION = 1;

export const sha256Schema = z.string().regex(SHA256_PATTERN, 'must be 64 lower-case hexadecimal digits');
export const timeSchema = z.iso.datetime();
export const channelSchema = z.string().max(255).refine(isChannel, 'must be <chain spec id>/<profile>');
export const countSchema = z.int().min(0);
export const sequenceSchema = z.int().min(1);

/**
 * Parses a small JSON document of the repository. `kind` is the document's own `presync` field; `what` names the object in errors.
 * A version from the future is FORMAT_TOO_NEW, everything else that does not fit FORMAT_INVALID.
 */
export function parseDocument<T>(bytes: Uint8Array, schema: z.ZodType<T>, what: string, kind?: string): T {
  const json = parseJson(bytes, what);
  if (kind !== undefined) {
    const head = z.looseObject({ presync: z.literal(kind), version: z.int().min(1) }).safeParse(json);
    if (!head.success) throw invalid(what, `it is not a presync ${kind} document`);
    if (head.data.version > FORMAT_VERSION) throw tooNew(what, `format version ${head.data.version}`);
  }
  const document = parseValue(json, schema, what);
  // One spelling only, so that no byte of it can change unnoticed.
  if (Buffer.compare(encodeDocument(document), bytes) !== 0)
    throw invalid(what, 'it is not in canonical form');
  return document;
}

/** Checks an already parsed value; FORMAT_INVALID names the field. */
export function parseValue<T>(value: unknown, schema: z.ZodType<T>, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(what, `${issue?.path.join('.') || 'the document'}: ${issue?.message ?? 'does not fit'}`);
}

export function parseJson(bytes: Uint8Array, what: string): unknown {
  if (bytes.length > MAX_DOCUMENT_SIZE) throw invalid(what, `it is larger than ${MAX_DOCUMENT_SIZE} bytes`);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (error) {
    throw invalid(what, messageOf(error), error);
  }
}

/** The bytes of a small JSON document, for people to read as well. */
export function encodeDocument(document: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(document, null, 2)}\n`);
}

export function invalid(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} does not follow the format: ${why.slice(0, 300)}`, {
    cause,
    hint: 'the object is damaged, or was not written by presync; run "presync verify" on the repository',
  });
}

export function tooNew(what: string, needs: string): PresyncError {
  return new PresyncError('FORMAT_TOO_NEW', `${what} needs ${needs}, which this presync does not know`, {
    hint: 'update presync on this machine',
  });
}

const isPowerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value));

const repositorySchema = z.strictObject({
  presync: z.literal('repository'),
  version: z.literal(1),
  /** Random; names the repository for life, so that two can be told apart wherever they are copied. */
  id: z.uuid(),
  /** Bytes of file content in a full chunk. */
  chunkSize: z.int().min(MIN_CHUNK_SIZE).max(MAX_CHUNK_SIZE).refine(isPowerOfTwo, 'must be a power of two'),
  created: timeSchema,
});

/** `presync.json`: written once, never replaced. */
export type RepositoryDocument = z.infer<typeof repositorySchema>;

export function parseRepository(bytes: Uint8Array, what: string): RepositoryDocument {
  return parseDocument(bytes, repositorySchema, what, 'repository');
}

/** Checks a chunk size before a repository is made with it. */
export function isChunkSize(size: number): boolean {
  return repositorySchema.shape.chunkSize.safeParse(size).success;
}

const latestSchema = z.strictObject({
  presync: z.literal('latest'),
  version: z.literal(1),
  channel: channelSchema,
  sequence: sequenceSchema,
  /** Of `manifest.json`, byte for byte. */
  manifest: z.strictObject({ size: z.int().min(1).max(MAX_DOCUMENT_SIZE), sha256: sha256Schema }),
});

/** `latest.json`: which manifest is newest; replaced by compare-and-swap only. */
export type LatestDocument = z.infer<typeof latestSchema>;

export function parseLatest(bytes: Uint8Array, what: string): LatestDocument {
  return parseDocument(bytes, latestSchema, what, 'latest');
}

const leaseSchema = z.strictObject({
  presync: z.literal('lease'),
  version: z.literal(1),
  kind: z.enum(['writer', 'reader']),
  id: z.string().min(1).max(128),
  channel: channelSchema,
  /** A writer relies on the chunks of this snapshot; a reader reads it. Null for a channel's first snapshot. */
  sequence: sequenceSchema.nullable(),
  /** Who holds it, for people: host name and process id. */
  holder: z.string().max(255),
  created: timeSchema,
  expires: timeSchema,
});

/** `leases/<kind>/<id>.json`. */
export type LeaseDocument = z.infer<typeof leaseSchema>;

export function parseLease(bytes: Uint8Array, what: string): LeaseDocument {
  return parseDocument(bytes, leaseSchema, what, 'lease');
}

const proofSchema = z.strictObject({
  presync: z.literal('proof'),
  version: z.literal(1),
  channel: channelSchema,
  sequence: sequenceSchema,
  /** Of `manifest.json`, byte for byte. */
  manifest: z.strictObject({ size: z.int().min(1).max(MAX_DOCUMENT_SIZE), sha256: sha256Schema }),
  state: z.enum(['pending', 'passed', 'failed']),
  /** What the writer set out to do, in order: `sample` or `full` (read back), `restore`, `node`. */
  checks: z.array(z.string().max(64)).max(16),
  /** Why it failed: an error code, and a sentence for people. Null unless `failed`. */
  failure: z.strictObject({ code: z.string().max(64), reason: z.string().max(2048) }).nullable(),
  /** When it came to this state. */
  changed: timeSchema,
});

/** `proof.json` beside a manifest: how far the writer's proof of the snapshot is, and how it ended. */
export type ProofDocument = z.infer<typeof proofSchema>;

export function parseProof(bytes: Uint8Array, what: string): ProofDocument {
  return parseDocument(bytes, proofSchema, what, 'proof');
}

const pinSchema = z.strictObject({
  presync: z.literal('pin'),
  version: z.literal(1),
  channel: channelSchema,
  sequence: sequenceSchema,
  /** Who pinned it, for people: host name and user. */
  holder: z.string().max(255),
  created: timeSchema,
});

/** `pins/<channel>/<seq>.json`: a snapshot that retention must not remove. */
export type PinDocument = z.infer<typeof pinSchema>;

export function parsePin(bytes: Uint8Array, what: string): PinDocument {
  return parseDocument(bytes, pinSchema, what, 'pin');
}

const removedSchema = z.strictObject({
  presync: z.literal('removed'),
  version: z.literal(1),
  channel: channelSchema,
  /** Sequence numbers that retention took away, as ranges with both ends, in order and apart from each other. */
  ranges: z.array(z.tuple([sequenceSchema, sequenceSchema])).max(10_000),
});

/** `channels/<channel>/removed.json`: tells what was removed on purpose from what was lost. */
export type RemovedDocument = z.infer<typeof removedSchema>;

export function parseRemoved(bytes: Uint8Array, what: string): RemovedDocument {
  return parseDocument(bytes, removedSchema, what, 'removed');
}

const collectionSchema = z.strictObject({
  presync: z.literal('collection'),
  version: z.literal(1),
  id: z.uuid(),
  /** `marking`: tombstones are being put; `marked`: they are all there; `deleting`, `deleted`: what they name is being, or has been, removed. */
  phase: z.enum(['marking', 'marked', 'deleting', 'deleted']),
  created: timeSchema,
  /** Of the run that wrote it; random. */
  run: z.uuid(),
  /** Leases that were held when all tombstones were there: they must have ended before anything is removed. */
  leases: z.array(z.string().min(1).max(160)),
  /** After this nothing more is removed under this collection unless the document says a later time. Null before `deleting`. */
  until: timeSchema.nullable(),
});

/** `tombstones/<id>/state.json`: how far a collection is. */
export type CollectionDocument = z.infer<typeof collectionSchema>;

export function parseCollection(bytes: Uint8Array, what: string): CollectionDocument {
  return parseDocument(bytes, collectionSchema, what, 'collection');
}
