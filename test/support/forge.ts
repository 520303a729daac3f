/**
 * Repositories that an attacker, or a writer with a defect, could leave behind: correctly signed by a trusted key, with every digest
 * in order, and wrong in one place that the test chooses. It writes a file store's folder directly.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ChunkLayout, compareFiles, planChunks } from '@presync/format/chunks';
import { createCodec, DEFAULT_LEVEL } from '@presync/format/codec';
import { sha256 } from '@presync/format/digest';
import { encodeDocument } from '@presync/format/documents';
import {
  createIndexWriter,
  type IndexDigest,
  type IndexedFile,
  type StoredChunk,
} from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { type PrivateKey, sealEnvelope } from '@presync/format/signature';
import { tarHeader } from '@presync/format/tar';
import { DEV_GENESIS } from './real-node.ts';

export const FORGED_CHANNEL = 'dev/rocksdb';
export const FORGED_PART = 'chains/dev/db/full';
export const FORGED_CHUNK_SIZE = 64 * 1024;

export interface ForgedFile {
  /** In the index. */
  path: string;
  content: Buffer;
  class?: IndexedFile['class'] | undefined;
  /** In the archive's header; default as in the index. */
  headerPath?: string | undefined;
}

export interface ForgedChunk {
  layout: ChunkLayout<IndexedFile & { content: Buffer }>;
  plain: Buffer;
  frame: Uint8Array;
  stored: StoredChunk;
}

export interface ForgeOptions {
  storeDir: string;
  keys: readonly PrivateKey[];
  files?: readonly ForgedFile[] | undefined;
  sequence?: number | undefined;
  /** Default `dev/rocksdb`. */
  channel?: string | undefined;
  /** Changes the plaintext of a chunk before it is hashed and compressed. */
  editPlain?: ((plain: Buffer, ordinal: number) => Buffer) | undefined;
  /** Changes a chunk's object, and what the index says of it. */
  editChunk?: ((chunk: ForgedChunk, ordinal: number) => Pick<ForgedChunk, 'frame' | 'stored'>) | undefined;
  /** Changes what the index says of a file. */
  editFile?: ((file: IndexedFile) => IndexedFile) | undefined;
  /** The index's bytes and what the manifest shall say of them, instead of the true ones. */
  editIndex?:
    | ((index: Buffer, digest: IndexDigest) => Promise<{ index: Buffer; digest: IndexDigest }>)
    | undefined;
  /** Changes the manifest before it is signed. What it gives may be no manifest. */
  editManifest?: ((manifest: Manifest) => object) | undefined;
  /** Default true: latest.json names the snapshot. */
  promote?: boolean | undefined;
}

/** A small database of the right names. */
export function soundFiles(): ForgedFile[] {
  return [
    { path: `${FORGED_PART}/000007.sst`, content: Buffer.alloc(200_000, 'a table of the chain; ') },
    { path: `${FORGED_PART}/000008.sst`, content: Buffer.alloc(900, 'small') },
    { path: `${FORGED_PART}/MANIFEST-000005`, content: Buffer.from('manifest'), class: 'mutable' },
    { path: `${FORGED_PART}/CURRENT`, content: Buffer.from('MANIFEST-000005\n'), class: 'seal' },
  ];
}

/** Puts a snapshot into the store's folder, and makes the repository there when there is none. */
export async function forgeSnapshot(options: ForgeOptions): Promise<{ manifest: Manifest; sha256: string }> {
  const { storeDir, keys, sequence = 1, channel = FORGED_CHANNEL } = options;
  const repository = await ensureRepository(storeDir);
  const put = (key: string, bytes: Uint8Array): Promise<void> => writeObject(storeDir, key, bytes);
  const codec = await createCodec();
  const files = (options.files ?? soundFiles()).map((file) => ({
    ...file,
    class: file.class ?? ('immutable' as const),
    size: file.content.length,
    mode: 0o644,
    mtimeMs: 1_700_000_000_000,
  }));
  const scratch = join(storeDir, `..`, `forged-index-${randomUUID()}`);
  const index = createIndexWriter(scratch, { chunkSize: FORGED_CHUNK_SIZE });
  const totals = { files: 0, chunks: 0, bytes: 0, unique: 0, stored: 0, added: 0 };
  let ordinal = 0;
  for (const layout of planChunks(files.sort(compareFiles), FORGED_CHUNK_SIZE)) {
    let plain: Buffer = Buffer.alloc(layout.length);
    for (const segment of layout.segments) {
      if (segment.kind === 'data')
        segment.file.content.copy(plain, segment.at, segment.offset, segment.offset + segment.length);
      else
        (await tarHeader(segment.file.headerPath ?? segment.file.path, segment.file.size)).copy(
          plain,
          segment.at,
        );
    }
    plain = options.editPlain?.(plain, ordinal) ?? plain;
    const honest = await codec.encode(plain, { level: DEFAULT_LEVEL });
    const said: ForgedChunk = {
      layout,
      plain,
      frame: honest,
      stored: {
        sha256: await sha256(plain),
        length: plain.length,
        storedSize: honest.length,
        storedSha256: await sha256(honest),
      },
    };
    const { frame, stored } = options.editChunk?.(said, ordinal) ?? said;
    await put(repositoryKeys.chunk(stored.sha256), frame);
    for (const { path, size, class: kind, mode, mtimeMs } of layout.begins) {
      const file = { path, size, class: kind, mode, mtimeMs };
      await index.file(options.editFile?.(file) ?? file);
    }
    await index.chunk(stored);
    totals.unique += stored.length;
    totals.stored += stored.storedSize;
    ordinal += 1;
  }
  const { digest, totals: indexed } = await index.finish();
  const written = { index: await readFile(scratch), digest };
  await rm(scratch);
  const edited = (await options.editIndex?.(written.index, digest)) ?? written;
  await put(repositoryKeys.index(channel, sequence), edited.index);
  const manifest: Manifest = {
    presync: 'manifest',
    format: { version: 1, minReader: 1, features: [] },
    repository,
    channel,
    sequence,
    previous: null,
    created: new Date().toISOString(),
    expires: null,
    chain: {
      specId: 'dev',
      name: null,
      genesisHash: DEV_GENESIS,
      anchor: null,
      head: null,
      blockTimeMs: null,
    },
    node: {
      implementation: null,
      version: null,
      statePruning: null,
      blocksPruning: null,
      parts: [
        { role: 'main', backend: 'rocksdb', path: FORGED_PART, databaseVersion: '4', identity: 'forged' },
      ],
    },
    totals: { ...totals, ...indexed },
    pause: { strategy: 'none', seconds: 0 },
    index: edited.digest,
  };
  const bytes = sealEnvelope(Buffer.from(JSON.stringify(options.editManifest?.(manifest) ?? manifest)), keys);
  await put(repositoryKeys.manifest(channel, sequence), bytes);
  if (options.promote ?? true) await pointAt(storeDir, sequence, bytes, channel);
  return { manifest, sha256: await sha256(bytes) };
}

/** Makes latest.json name a manifest. */
export async function pointAt(
  storeDir: string,
  sequence: number,
  manifest?: Buffer,
  channel = FORGED_CHANNEL,
): Promise<void> {
  const bytes = manifest ?? (await readFile(join(storeDir, repositoryKeys.manifest(channel, sequence))));
  const latest = {
    presync: 'latest',
    version: 1,
    channel,
    sequence,
    manifest: { size: bytes.length, sha256: await sha256(bytes) },
  };
  await writeObject(storeDir, repositoryKeys.latest(channel), encodeDocument(latest));
}

export async function writeObject(storeDir: string, key: string, bytes: Uint8Array): Promise<void> {
  const path = join(storeDir, key);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, bytes);
}

async function ensureRepository(storeDir: string): Promise<{ id: string; sha256: string }> {
  const path = join(storeDir, repositoryKeys.repository);
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch {
    bytes = encodeDocument({
      presync: 'repository',
      version: 1,
      id: randomUUID(),
      chunkSize: FORGED_CHUNK_SIZE,
      created: new Date().toISOString(),
    });
    await writeObject(storeDir, repositoryKeys.repository, bytes);
  }
  const document: unknown = JSON.parse(bytes.toString());
  if (
    typeof document !== 'object' ||
    document === null ||
    !('id' in document) ||
    typeof document.id !== 'string'
  )
    throw new Error(`${path} is no presync.json`);
  return { id: document.id, sha256: await sha256(bytes) };
}
