/** Snapshots that are signed by a trusted key and lie inside: names that would leave the target, sizes, bombs, headers. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import type { IndexDigest } from '@presync/format/index-file';
import { tarHeader } from '@presync/format/tar';
import { assertRefused, createScene, type Scene, STORE_INTERNALS } from '../support/bad-input.ts';
import {
  FORGED_CHANNEL,
  FORGED_CHUNK_SIZE,
  FORGED_PART,
  type ForgedFile,
  type ForgeOptions,
  forgeSnapshot,
  soundFiles,
} from '../support/forge.ts';
import { presync } from '../support/presync.ts';
import { listTree } from '../support/tree.ts';

const MEMORY_LIMIT = 512 * 1024 * 1024;
const compress = promisify(zlib.zstdCompress);

describe('a snapshot by a trusted key that lies inside', () => {
  const cleanups: (() => Promise<void>)[] = [];
  let scene: Scene;
  before(async () => {
    scene = await createScene({ after: (fn) => void cleanups.push(fn) });
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });
  beforeEach(async () => {
    for (const dir of [scene.storeDir, scene.target, scene.stateDir])
      await rm(dir, { recursive: true, force: true });
    await mkdir(scene.stateDir);
  });

  interface Expected {
    code: string;
    names: (string | RegExp)[];
    /** Default true. What files a backend has is the business of who restores; verify holds to the format. */
    verifyToo?: boolean;
    /** Found only when a chunk is read: what was staged until then stays in `.presync` for the next attempt. */
    late?: boolean;
  }

  async function startAnew(): Promise<void> {
    for (const dir of [scene.target, join(scene.stateDir, 'failed')])
      await rm(dir, { recursive: true, force: true });
  }

  async function refused({ code, names, late = false, verifyToo = true }: Expected): Promise<void> {
    const { storeDir, target, stateDir } = scene;
    const outcome = await assertRefused({
      args: scene.restoreArgs(),
      code,
      exit: 4,
      names,
      unchanged: late ? [storeDir, stateDir] : [storeDir, stateDir, target],
      // A restore holds a lease while it reads, and remembers what was damaged.
      ignore: late ? [...STORE_INTERNALS, 'failed'] : STORE_INTERNALS,
    });
    assert.ok(outcome.peakBytes < MEMORY_LIMIT, `${outcome.peakBytes} bytes resident`);
    if (late) await assertNothingOpenable();
    if (!verifyToo) return;
    const verify = await presync([
      ...['verify', '--store', scene.store, '--trust', scene.trust, '--state-dir', scene.stateDir],
    ]);
    assert.equal(verify.code, 4, `verify did not see it:\n${verify.stdout}${verify.stderr}`);
  }

  /** Nothing but the stage, and nothing in it that a node takes for a database. */
  async function assertNothingOpenable(): Promise<void> {
    const left = await listTree(scene.target);
    for (const line of left) {
      const [path = ''] = line.split(' ');
      assert.ok(
        path.startsWith('chains/dev/db/.presync') ||
          ['.', 'chains', 'chains/dev', 'chains/dev/db'].includes(path),
        line,
      );
      assert.doesNotMatch(path, /\/(CURRENT|metadata)$/);
    }
    assert.ok((await readdir(scene.dir)).every((name) => !name.startsWith('escaped')));
  }

  const forge = (options: Partial<ForgeOptions> = {}) =>
    forgeSnapshot({ storeDir: scene.storeDir, keys: [scene.key], ...options });
  const withFile = (path: string, more: Partial<ForgedFile> = {}) =>
    forge({
      files: [
        ...soundFiles(),
        { path, content: Buffer.from('evil'), headerPath: 'chains/dev/db/full/000009.sst', ...more },
      ],
    });

  const names: [what: string, path: string][] = [
    ['../ at its start', '../escaped'],
    ['../ in its middle', `${FORGED_PART}/../../../../escaped`],
    ['../ that stays inside', 'chains/dev/../dev/db/full/000009.sst'],
    ['an absolute path', '/tmp/escaped'],
    ['a backslash', `${FORGED_PART}/..\\..\\escaped`],
    ['a drive letter', 'C:/escaped'],
    ['a NUL', `${FORGED_PART}/000009.sst\0.txt`],
    ['a newline', `${FORGED_PART}/000009\n.sst`],
    ['a leading dot', `${FORGED_PART}/.ssh`],
    ['an empty segment', `${FORGED_PART}//000009.sst`],
    ['a trailing slash', `${FORGED_PART}/000009.sst/`],
    ['nothing', ''],
    ['a letter that another normalisation changes', `${FORGED_PART}/00000\u00e9.sst`],
    ['260 letters', `${FORGED_PART}/${'a'.repeat(260)}`],
    ['the keystore', 'chains/dev/keystore/aura'],
    ['the network key', 'chains/dev/network/secret_ed25519'],
    ['the folder above the database', 'chains/dev/db/000009.sst'],
    ['a folder below the database', `${FORGED_PART}/sub/000009.sst`],
    ['the other backend', 'chains/dev/paritydb/full/metadata'],
    ["the stage's own folder", 'chains/dev/db/.presync/restore-full/CURRENT'],
    ['a case twin', `${FORGED_PART}/current`],
    ['a file that is there already', `${FORGED_PART}/CURRENT`],
    ['no file of the backend', `${FORGED_PART}/payload.so`],
    ['a file of the other backend', `${FORGED_PART}/table_00_01`],
    ["the database's lock", `${FORGED_PART}/LOCK`],
    ["presync's own suffix", `${FORGED_PART}/CURRENT.presync-unsealed`],
  ];
  for (const [what, path] of names) {
    it(`a name with ${what}`, async () => {
      await withFile(path);
      const shown = JSON.stringify(path.slice(0, 60)).slice(1, -1);
      const wellFormed = new RegExp(`^${FORGED_PART}/[\\w.-]+$`).test(path) && path.length < 250;
      const twin = path.toLowerCase() === `${FORGED_PART}/current`.toLowerCase();
      await refused({
        code: 'PATH_UNSAFE',
        names: [shown],
        verifyToo: !wellFormed || path.includes('/.ssh') || twin,
      });
      await assertNothingOpenable();
    });
  }

  it('a class that the file does not have: the seal would be written too early', async () => {
    await forge({
      files: soundFiles().map((file) => ({ ...file, class: file.class === 'seal' ? 'mutable' : file.class })),
    });
    await refused({ code: 'PATH_UNSAFE', names: ['CURRENT'], verifyToo: false });
  });

  it('a part that leaves the base path, or is the keystore', async () => {
    for (const path of ['../up', '/etc', 'chains/dev/keystore', 'chains/../db/full']) {
      await forge({
        editManifest: ({ node, ...manifest }) => ({
          ...manifest,
          node: { ...node, parts: node.parts.map((part) => ({ ...part, path })) },
        }),
      });
      if (path === 'chains/dev/keystore') await refused({ code: 'PATH_UNSAFE', names: [path] });
      else await refused({ code: 'FORMAT_INVALID', names: ['node.parts.0.path'] });
    }
  });

  it('files out of order, and none at all', async () => {
    await forge({
      editFile: (file) =>
        file.path.endsWith('000008.sst') ? { ...file, path: `${FORGED_PART}/000001.sst` } : file,
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['000001.sst', 'order'] });
  });

  it('sizes of files that lie', async () => {
    for (const change of [1000, -1000, 2 ** 50, 512]) {
      await forge({
        editFile: (file) => (file.path.endsWith('000007.sst') ? { ...file, size: file.size + change } : file),
      });
      await refused({ code: 'INDEX_CORRUPT', names: [`${FORGED_CHANNEL}#1`, '000007.sst'] });
    }
    // Small enough a lie to stay within the padding: the header in the archive tells.
    await forge({
      editFile: (file) => (file.path.endsWith('000008.sst') ? { ...file, size: file.size + 1 } : file),
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['000008.sst', 'header'], late: true });
  });

  it('lengths of chunks that lie', async () => {
    for (const change of [-512, 512, 2 ** 40]) {
      await forge({
        editChunk: ({ frame, stored }, at) => ({
          frame,
          stored: at === 0 ? { ...stored, length: stored.length + change } : stored,
        }),
      });
      // The next chunks no longer meet the end of the file, or the chunk is larger than any may be.
      await refused({ code: 'INDEX_CORRUPT', names: [/000007\.sst|chunk size/] });
    }
  });

  it('stored sizes that lie', async () => {
    for (const change of [1, -1, 1000]) {
      // The last one is remembered, and counts.
      await startAnew();
      await forge({
        editChunk: ({ frame, stored }, at) => ({
          frame,
          stored: at === 0 ? { ...stored, storedSize: stored.storedSize + change } : stored,
        }),
      });
      await refused({
        code: 'CHUNK_CORRUPT',
        names: [/chunks\/[0-9a-f]{2}\/[0-9a-f]{64}/, '000007.sst'],
        late: true,
      });
    }
    await startAnew();
    await forge({
      editChunk: ({ frame, stored }, at) => ({
        frame,
        stored: at === 0 ? { ...stored, storedSize: 2 ** 33 } : stored,
      }),
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['8589934592'] });
  });

  it('totals that lie', async () => {
    for (const field of ['files', 'chunks', 'bytes'] as const) {
      await forge({
        editManifest: (manifest) => ({
          ...manifest,
          totals: { ...manifest.totals, [field]: manifest.totals[field] + 1 },
        }),
      });
      await refused({ code: 'INDEX_CORRUPT', names: [`${FORGED_CHANNEL}#1`, field] });
    }
  });

  it('sizes and digests of the index that lie', async () => {
    const lies: [(digest: IndexDigest) => IndexDigest, string | RegExp][] = [
      [(digest) => ({ ...digest, size: digest.size + 1 }), 'bytes long'],
      [(digest) => ({ ...digest, size: digest.size - 1 }), /bytes long|SHA-256/],
      [(digest) => ({ ...digest, length: digest.length + 1 }), 'unfolds'],
      [(digest) => ({ ...digest, length: digest.length - 1 }), 'unfolds'],
      [(digest) => ({ ...digest, sha256: '0'.repeat(64) }), 'SHA-256'],
    ];
    for (const [lie, name] of lies) {
      await forge({ editIndex: async (index, digest) => ({ index, digest: lie(digest) }) });
      await refused({ code: 'INDEX_CORRUPT', names: [name, /dev\/rocksdb/] });
    }
  });

  it('an index that is a bomb', async () => {
    const zeros = await compress(Buffer.alloc(900 * 1024 * 1024));
    for (const length of [4000, 900 * 1024 * 1024]) {
      await forge({ editIndex: async () => ({ index: zeros, digest: { ...digestOf(zeros), length } }) });
      await refused({ code: 'INDEX_CORRUPT', names: [`${FORGED_CHANNEL}#1`] });
    }
    await forge({
      editIndex: async () => ({ index: zeros, digest: { ...digestOf(zeros), length: 2 ** 31 } }),
    });
    await refused({ code: 'FORMAT_INVALID', names: ['index.length'] });
  });

  it('an index of a gigabyte of short lines, and one of empty files', async () => {
    const head = `${JSON.stringify({ presync: 'index', version: 1, chunkSize: FORGED_CHUNK_SIZE })}\n`;
    const lines = Buffer.from(head + '\n'.repeat(64 * 1024 * 1024));
    const frame = await compress(lines);
    await forge({
      editIndex: async () => ({ index: frame, digest: { ...digestOf(frame), length: lines.length } }),
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['JSON'] });
    let text = head;
    for (let number = 0; number < 200_000; number++) {
      const file = `${FORGED_PART}/${String(number).padStart(6, '0')}.sst`;
      text += `${JSON.stringify({ file, size: 0, class: 'immutable', mode: 0o644, mtime: 0 })}\n`;
    }
    const empty = await compress(Buffer.from(text));
    await forge({
      editIndex: async () => ({ index: empty, digest: { ...digestOf(empty), length: text.length } }),
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['bundle'] });
  });

  it('a chunk that is a bomb: honest about it, and with a header that hides it', async () => {
    // Not one byte repeated: zstd makes RLE blocks of that, whose sizes stand in the open.
    const size = 600 * 1024 * 1024;
    const bomb = await compress(Buffer.alloc(size, 'a pattern, again and again; '), { pledgedSrcSize: size });
    assert.ok(bomb.length < FORGED_CHUNK_SIZE);
    // Frame_Content_Size of four bytes after magic, descriptor and window (RFC 8878, 3.1.1.1).
    const descriptor = bomb[4] ?? 0;
    assert.equal(descriptor >> 6, 2);
    const at = (descriptor & 0x20) === 0 ? 6 : 5;
    for (const hidden of [false, true]) {
      await rm(scene.target, { recursive: true, force: true });
      await forge({
        editChunk: ({ frame, stored }, ordinal) => {
          if (ordinal !== 0) return { frame, stored };
          const forged = Buffer.from(bomb);
          if (hidden) forged.writeUInt32LE(stored.length, at);
          return {
            frame: forged,
            stored: { ...stored, storedSize: forged.length, storedSha256: hex(forged) },
          };
        },
      });
      await refused({
        code: 'CHUNK_CORRUPT',
        names: [/chunks\/[0-9a-f]{2}\/[0-9a-f]{64}/, '000007.sst'],
        late: true,
      });
    }
  });

  it('a chunk of many RLE blocks, whose header says that it is small', async () => {
    const blocks = Buffer.alloc(4 * 10_000);
    for (let block = 0; block < 10_000; block++)
      blocks.writeUIntLE(((128 * 1024) << 3) | 2 | (block === 9999 ? 1 : 0), block * 4, 3);
    await forge({
      editChunk: ({ frame, stored }, ordinal) => {
        if (ordinal !== 0) return { frame, stored };
        const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x38, 0, 0, 0, 0]);
        header.writeUInt32LE(stored.length, 6);
        const forged = Buffer.concat([header, blocks]);
        return { frame: forged, stored: { ...stored, storedSize: forged.length, storedSha256: hex(forged) } };
      },
    });
    await refused({ code: 'CHUNK_CORRUPT', names: ['unfolds', '000007.sst'], late: true });
  });

  it('a header in the archive that names another file', async () => {
    await forge({
      files: soundFiles().map((file) =>
        file.path.endsWith('000008.sst') ? { ...file, headerPath: `${FORGED_PART}/000666.sst` } : file,
      ),
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['000008.sst', 'header'], late: true });
  });

  it('a header in the archive that makes the file a link, for those who use tar', async () => {
    const header = await tarHeader(`${FORGED_PART}/000007.sst`, 200_000);
    await forge({
      editPlain: (plain, ordinal) => {
        if (ordinal !== 0) return plain;
        assert.ok(plain.subarray(0, 512).equals(header));
        plain[156] = 0x32;
        plain.write('/etc/passwd', 157, 'latin1');
        return plain;
      },
    });
    await refused({ code: 'INDEX_CORRUPT', names: ['000007.sst', 'header'], late: true });
  });

  it("an archive's end that is not zero", async () => {
    await forge({ editPlain: (plain) => (plain.length === 1024 ? Buffer.alloc(1024, 1) : plain) });
    await refused({ code: 'INDEX_CORRUPT', names: ['end'], late: true });
  });

  it('leaves the old database alone, whatever it finds in the new one', async () => {
    const full = join(scene.target, FORGED_PART);
    await mkdir(full, { recursive: true });
    for (const name of ['CURRENT', '000001.sst', 'IDENTITY'])
      await writeFile(join(full, name), `old ${name}`);
    const old = await listTree(full);
    await withFile(`${FORGED_PART}/payload.so`);
    const { target } = scene;
    const before = await listTree(target);
    for (const existing of ['reuse', 'replace']) {
      await assertRefused({
        args: scene.restoreArgs('--existing', existing, '--yes'),
        code: 'PATH_UNSAFE',
        exit: 4,
        names: ['payload.so'],
        unchanged: [target],
      });
    }
    assert.deepEqual(await listTree(target), before);
    await forge({ editPlain: (plain) => (plain.length === 1024 ? Buffer.alloc(1024, 1) : plain) });
    const outcome = await presync(scene.restoreArgs('--existing', 'replace', '--yes'));
    assert.equal(outcome.code, 4);
    assert.deepEqual(await listTree(full), old);
  });
});

function hex(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function digestOf(index: Buffer): Omit<IndexDigest, 'length'> {
  return { size: index.length, sha256: hex(index) };
}
