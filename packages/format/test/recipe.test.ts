import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type ArchiveFile, compareFiles, planChunks } from '@presync/format/chunks';
import { createNativeCodec } from '@presync/format/codec';
import { sha256 } from '@presync/format/digest';
import { encodeDocument } from '@presync/format/documents';
import { createIndexWriter } from '@presync/format/index-file';
import { encodeManifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { generateKey, type PrivateKey, sealEnvelope } from '@presync/format/signature';
import { hasProgram, needs } from '../../../test/support/needs.ts';
import { contentOf, KIB, plaintextOf } from './support.ts';

const CHUNK = 64 * KIB;
const CHANNEL = 'polkadot/archive';
const FOLDER = 'chains/polkadot/db/full';
const ID = 'a3bb189e-8bf9-4888-9912-ace4e6543002';
const CREATED = '2026-01-01T00:00:00Z';

const files: ArchiveFile[] = [
  { path: `${FOLDER}/000001.sst`, size: CHUNK * 2 + 9, class: 'immutable' },
  { path: `${FOLDER}/${'n'.repeat(120)}`, size: 5, class: 'mutable' },
  { path: `${FOLDER}/empty`, size: 0, class: 'mutable' },
  { path: `${FOLDER}/CURRENT`, size: 16, class: 'seal' },
];
files.sort(compareFiles);

/** The shell commands in docs/format.md, in order. */
function recipes(): string[] {
  const page = readFileSync(new URL('../../../docs/format.md', import.meta.url), 'utf8');
  return [...page.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, commands]) => commands ?? '');
}

/** Writes a repository by the format's rules, with nothing but this package. */
async function writeRepository(folder: string, keys: PrivateKey[]): Promise<void> {
  const put = (key: string, bytes: Uint8Array): void => {
    mkdirSync(dirname(join(folder, key)), { recursive: true });
    writeFileSync(join(folder, key), bytes);
  };
  const repository = encodeDocument({
    presync: 'repository',
    version: 1,
    id: ID,
    chunkSize: CHUNK,
    created: CREATED,
  });
  put(repositoryKeys.repository, repository);
  const indexPath = join(folder, repositoryKeys.index(CHANNEL, 1));
  mkdirSync(dirname(indexPath), { recursive: true });
  const index = createIndexWriter(indexPath, { chunkSize: CHUNK });
  const codec = createNativeCodec();
  for (const layout of planChunks(files, CHUNK)) {
    const plain = await plaintextOf(layout);
    const frame = await codec.encode(plain, { level: 3 });
    const chunk = {
      sha256: await sha256(plain),
      length: plain.length,
      storedSize: frame.length,
      storedSha256: await sha256(frame),
    };
    put(repositoryKeys.chunk(chunk.sha256), frame);
    for (const file of layout.begins) await index.file({ ...file, mode: 0o644, mtimeMs: 0 });
    await index.chunk(chunk);
  }
  const { digest, totals } = await index.finish();
  const hash = `0x${'ab'.repeat(32)}`;
  const manifest = sealEnvelope(
    encodeManifest({
      presync: 'manifest',
      format: { version: 1, minReader: 1, features: [] },
      repository: { id: ID, sha256: await sha256(repository) },
      channel: CHANNEL,
      sequence: 1,
      previous: null,
      created: CREATED,
      expires: null,
      chain: {
        specId: 'polkadot',
        name: null,
        genesisHash: hash,
        anchor: null,
        head: null,
        blockTimeMs: null,
      },
      node: {
        implementation: null,
        version: null,
        statePruning: null,
        blocksPruning: null,
        parts: [{ role: 'main', backend: 'rocksdb', path: FOLDER, databaseVersion: '4', identity: 'x' }],
      },
      totals: { ...totals, unique: 0, stored: 0, added: 0 },
      pause: { strategy: 'none', seconds: 0 },
      index: digest,
    }),
    keys,
  );
  put(repositoryKeys.manifest(CHANNEL, 1), manifest);
  const named = { size: manifest.length, sha256: await sha256(manifest) };
  put(
    repositoryKeys.latest(CHANNEL),
    encodeDocument({ presync: 'latest', version: 1, channel: CHANNEL, sequence: 1, manifest: named }),
  );
}

async function inRepository(run: (folder: string, key: PrivateKey) => void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'presync-recipe-'));
  try {
    const key = generateKey();
    await writeRepository(join(folder, 'repository'), [generateKey(), key]);
    run(folder, key);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const tools = ['jq', 'zstd', 'sha256sum', 'tar'];

test(
  'the shell commands in docs/format.md restore a snapshot, and notice damage',
  needs(tools.join(', '), tools.every(hasProgram)),
  async () => {
    await inRepository((folder) => {
      const repository = join(folder, 'repository');
      const restore = (target: string): ReturnType<typeof spawnSync> =>
        spawnSync('sh', ['-c', recipes()[0] ?? ''], {
          encoding: 'utf8',
          env: { ...process.env, REPOSITORY: repository, CHANNEL, TARGET: join(folder, target) },
        });
      const run = restore('good');
      assert.equal(run.status, 0, String(run.stderr));
      for (const file of files) {
        const restored = readFileSync(join(folder, 'good', file.path));
        assert.equal(Buffer.compare(restored, contentOf(file, 0, file.size)), 0, file.path);
      }
      const index = join(repository, repositoryKeys.index(CHANNEL, 1));
      const bytes = readFileSync(index);
      bytes[10] = (bytes[10] ?? 0) ^ 1;
      writeFileSync(index, bytes);
      assert.notEqual(restore('bad').status, 0);
      assert.equal(existsSync(join(folder, 'bad', `${FOLDER}/CURRENT`)), false);
    });
  },
);

test(
  'the shell commands in docs/format.md check a signature',
  needs('jq and openssl', hasProgram('jq') && hasProgram('openssl')),
  async () => {
    await inRepository((folder, key) => {
      writeFileSync(join(folder, 'key.pem'), key.key.export({ format: 'pem', type: 'spki' }));
      const manifest = join(folder, 'repository', repositoryKeys.manifest(CHANNEL, 1));
      const check = (): number | null =>
        spawnSync('sh', ['-c', recipes()[1] ?? ''], {
          cwd: folder,
          env: {
            ...process.env,
            MANIFEST: manifest,
            KEY_ID: key.id,
            PUBLIC_KEY_PEM: join(folder, 'key.pem'),
          },
        }).status;
      assert.equal(check(), 0);
      const text = readFileSync(manifest, 'utf8');
      const payload = /"payload": "(.*)"/.exec(text)?.[1] ?? '';
      const changed = Buffer.from(
        Buffer.from(payload, 'base64').toString().replace('"sequence":1', '"sequence":2'),
      ).toString('base64');
      assert.notEqual(changed, payload);
      writeFileSync(manifest, text.replace(payload, changed));
      assert.notEqual(check(), 0);
    });
  },
);
