/** Snapshots that are not what they should be as a whole: from the future, unsigned, by a stranger, expired, replayed, of another chain. */
import assert from 'node:assert/strict';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { encodeDocument } from '@presync/format/documents';
import type { Manifest } from '@presync/format/manifest';
import { generateKey } from '@presync/format/signature';
import { assertRefused, createScene, type Scene, STORE_INTERNALS } from '../support/bad-input.ts';
import { FORGED_CHANNEL, FORGED_PART, forgeSnapshot, pointAt, soundFiles } from '../support/forge.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS } from '../support/real-node.ts';

const MANIFEST = `snapshots/${FORGED_CHANNEL}/1/manifest.json`;

describe('a snapshot that must not be restored', () => {
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

  const forge = (options: Partial<Parameters<typeof forgeSnapshot>[0]> = {}) =>
    forgeSnapshot({ storeDir: scene.storeDir, keys: [scene.key], ...options });
  const withManifest = (edit: (manifest: Manifest) => object) => forge({ editManifest: edit });

  async function refused(
    code: string,
    names: (string | RegExp)[],
    args = scene.restoreArgs(),
    exit = 4,
  ): Promise<void> {
    const { storeDir, target, stateDir } = scene;
    await assertRefused({ args, code, exit, names, unchanged: [storeDir, target, stateDir] });
  }

  it('(the forger writes sound snapshots when it changes nothing)', async () => {
    await forge();
    await presyncOk(scene.restoreArgs());
    assert.deepEqual(
      await readFile(join(scene.target, 'chains/dev/db/full/CURRENT')),
      Buffer.from('MANIFEST-000005\n'),
    );
    await presyncOk([
      'verify',
      '--store',
      scene.store,
      '--trust',
      scene.trust,
      '--state-dir',
      scene.stateDir,
    ]);
  });

  it('a repository of a future version, for every command that reads one', async () => {
    await forge();
    const path = join(scene.storeDir, 'presync.json');
    const document: unknown = JSON.parse(await readFile(path, 'utf8'));
    assert.ok(typeof document === 'object' && document !== null);
    await writeFile(path, encodeDocument({ ...document, version: 2, packs: true }));
    const names = ['presync.json', 'version 2'];
    await refused('FORMAT_TOO_NEW', names);
    for (const command of [
      ['list', '--store', scene.store],
      ['show', '--store', scene.store, '--trust', scene.trust],
      ['verify', '--store', scene.store, '--trust', scene.trust],
    ])
      await refused('FORMAT_TOO_NEW', names, command);
    const source = join(scene.dir, 'tiny-source');
    await writeSource(source);
    await refused('FORMAT_TOO_NEW', names, scene.snapshotArgs('--base-path', source));
  });

  it('a manifest that asks for a newer reader, an unknown feature, or is of a newer version', async () => {
    await withManifest((manifest) => ({ ...manifest, format: { version: 2, minReader: 2, features: [] } }));
    await refused('FORMAT_TOO_NEW', [MANIFEST, 'format 2']);
    await withManifest((manifest) => ({
      ...manifest,
      format: { version: 1, minReader: 1, features: ['packs'] },
    }));
    await refused('FORMAT_TOO_NEW', [MANIFEST, '"packs"']);
    await withManifest((manifest) => ({
      ...manifest,
      format: { version: 2, minReader: 1, features: [] },
      more: 1,
    }));
    await refused('FORMAT_TOO_NEW', [MANIFEST, 'version 2']);
  });

  it('a manifest with a field that does not fit, or one too many', async () => {
    await withManifest((manifest) => ({ ...manifest, chain: { ...manifest.chain, genesisHash: '0x00' } }));
    await refused('FORMAT_INVALID', [MANIFEST, 'chain.genesisHash']);
    await withManifest((manifest) => ({ ...manifest, surprise: true }));
    await refused('FORMAT_INVALID', [MANIFEST, 'surprise']);
    await withManifest(() => ({ presync: 'index' }));
    await refused('FORMAT_INVALID', [MANIFEST, 'not a presync manifest']);
  });

  it('an unsigned manifest, for agents, unless they say --insecure-no-verify loudly', async () => {
    await forge({ keys: [] });
    await refused('MANIFEST_UNSIGNED', [MANIFEST]);
    const args = scene
      .restoreArgs('--insecure-no-verify')
      .filter((arg) => arg !== '--trust' && arg !== scene.trust);
    const outcome = await presyncOk(args);
    assert.match(outcome.stderr, /INSECURE/);
  });

  it("a manifest signed by a stranger, and one with a trusted key's id and a stranger's signature", async () => {
    const stranger = generateKey();
    await forge({ keys: [stranger] });
    await refused('MANIFEST_UNTRUSTED', [MANIFEST, stranger.id]);
    await forge({ keys: [{ ...stranger, id: scene.key.id }] });
    await refused('MANIFEST_UNTRUSTED', [MANIFEST, scene.key.id, 'wrong']);
  });

  it('a signed manifest whose payload was changed after', async () => {
    await forge();
    const path = join(scene.storeDir, MANIFEST);
    const envelope: unknown = JSON.parse(await readFile(path, 'utf8'));
    assert.ok(typeof envelope === 'object' && envelope !== null && 'payload' in envelope);
    const payload = Buffer.from(String(envelope.payload), 'base64')
      .toString()
      .replace('"forged"', '"Forged"');
    const changed = encodeDocument({ ...envelope, payload: Buffer.from(payload).toString('base64') });
    await writeFile(path, changed);
    await refused('MANIFEST_CORRUPT', [MANIFEST]);
    await pointAt(scene.storeDir, 1, changed);
    await refused('MANIFEST_UNTRUSTED', [MANIFEST, 'wrong']);
  });

  it('an expired manifest', async () => {
    const expires = new Date(Date.now() - 60_000).toISOString();
    await withManifest((manifest) => ({ ...manifest, expires }));
    await refused('MANIFEST_EXPIRED', [`${FORGED_CHANNEL}#1`, expires]);
  });

  it('a foreign chain: by --genesis, by --chain, and by a path of another chain', async () => {
    await forge();
    const other = `0x${'ab'.repeat(32)}`;
    await refused('MANIFEST_FOREIGN', [other, DEV_GENESIS], scene.restoreArgs('--genesis', other));
    await refused(
      'MANIFEST_FOREIGN',
      ['chain dev', 'not polkadot'],
      scene.restoreArgs('--chain', 'polkadot'),
    );
    await withManifest((manifest) => ({ ...manifest, chain: { ...manifest.chain, specId: 'polkadot' } }));
    await refused('PATH_UNSAFE', ['chains/dev/db/full', 'polkadot']);
  });

  it('a channel of another chain, for a snapshot', async () => {
    await withManifest((manifest) => ({
      ...manifest,
      chain: { ...manifest.chain, genesisHash: `0x${'cd'.repeat(32)}` },
    }));
    const source = join(scene.dir, 'other-chain');
    await writeSource(source);
    await assertRefused({
      args: scene.snapshotArgs('--base-path', source),
      code: 'NODE_WRONG_CHAIN',
      exit: 8,
      names: [FORGED_CHANNEL, DEV_GENESIS, 'cdcdcd'],
      unchanged: [scene.storeDir, source, scene.stateDir],
      ignore: STORE_INTERNALS,
    });
  });

  it('an older latest after a newer was seen; the older one is had by its number', async () => {
    await forge();
    await forge({ sequence: 2 });
    await presyncOk(scene.restoreArgs());
    await pointAt(scene.storeDir, 1);
    const again = ['--existing', 'replace', '--yes'];
    await refused('MANIFEST_ROLLED_BACK', [`${FORGED_CHANNEL}#1`, '#2'], scene.restoreArgs(...again));
    await refused(
      'MANIFEST_ROLLED_BACK',
      [`${FORGED_CHANNEL}#1`, '#2'],
      ['show', '--store', scene.store, '--trust', scene.trust, '--state-dir', scene.stateDir],
    );
    const outcome = await presyncOk(scene.restoreArgs(...again, '--snapshot', '1', '--json'));
    assert.match(outcome.stdout, /"sequence": 1,/);
    // Having taken the older one on purpose does not make this machine forget the newer one.
    await refused('MANIFEST_ROLLED_BACK', [`${FORGED_CHANNEL}#1`, '#2'], scene.restoreArgs(...again));
  });

  it('another manifest under a number that was seen', async () => {
    await forge();
    await presyncOk(scene.restoreArgs());
    await withManifest((manifest) => ({ ...manifest, created: new Date(0).toISOString() }));
    const again = ['--existing', 'replace', '--yes'];
    await refused('MANIFEST_ROLLED_BACK', [MANIFEST], scene.restoreArgs(...again));
    await refused('MANIFEST_ROLLED_BACK', [MANIFEST], scene.restoreArgs(...again, '--snapshot', '1'));
  });

  it('a damaged memory of what was seen is an error, not a fresh start', async () => {
    await forge();
    await presyncOk(scene.restoreArgs());
    const { id } = (await forge()).manifest.repository;
    const path = join(scene.stateDir, 'seen', `${id}-dev-rocksdb.json`);
    for (const content of ['', '{}', (await readFile(path, 'utf8')).slice(0, -10)]) {
      await writeFile(path, content);
      await refused('FORMAT_INVALID', [path], scene.restoreArgs('--existing', 'replace', '--yes'));
    }
  });

  it('a manifest that was moved: from another number, channel or repository', async () => {
    await withManifest((manifest) => ({ ...manifest, sequence: 7 }));
    await refused('MANIFEST_CORRUPT', [`${FORGED_CHANNEL}#1`, '#7']);
    await withManifest((manifest) => ({ ...manifest, channel: 'kusama/rocksdb' }));
    await refused('MANIFEST_CORRUPT', [`${FORGED_CHANNEL}#1`, 'kusama/rocksdb']);
    const repository = { id: '0e1c2c3e-4f40-4a5b-8c6d-7e8f90a1b2c3', sha256: '0'.repeat(64) };
    await withManifest((manifest) => ({ ...manifest, repository }));
    await refused('MANIFEST_CORRUPT', [repository.id]);
    await withManifest((manifest) => ({
      ...manifest,
      repository: { ...manifest.repository, sha256: '0'.repeat(64) },
    }));
    await refused('MANIFEST_CORRUPT', ['presync.json']);
  });

  it('a latest.json that lies, is of another channel, or names what is not there', async () => {
    await forge();
    const path = join(scene.storeDir, `channels/${FORGED_CHANNEL}/latest.json`);
    const sound = await readFile(path, 'utf8');
    await writeFile(path, sound.replace(/"size": \d+/, '"size": 12'));
    await refused('MANIFEST_CORRUPT', [MANIFEST, 'latest.json']);
    await writeFile(path, sound.replace('"sequence": 1', '"sequence": 3'));
    await refused('MANIFEST_CORRUPT', [MANIFEST.replace('/1/', '/3/'), 'missing']);
    await writeFile(path, sound.replace(FORGED_CHANNEL, 'dev/paritydb'));
    await refused('MANIFEST_CORRUPT', ['latest.json', 'dev/paritydb']);
    await writeFile(path, sound.replace('"version": 1', '"version": 2'));
    await refused('FORMAT_TOO_NEW', ['latest.json', 'version 2']);
    await writeFile(path, 'x'.repeat(300_000));
    await refused('FORMAT_INVALID', ['latest.json']);
  });

  it('what is not there: repository, channel, snapshot', async () => {
    await forge();
    await refused('CHANNEL_NOT_FOUND', ['dev/paritydb'], scene.restoreArgs('--channel', 'dev/paritydb'), 5);
    await refused(
      'SNAPSHOT_NOT_FOUND',
      ['9'],
      scene.restoreArgs('--snapshot', '9', '--channel', FORGED_CHANNEL),
      5,
    );
    await withManifest((manifest) => ({
      ...manifest,
      created: new Date(Date.now() - 7_200_000).toISOString(),
    }));
    await refused(
      'SNAPSHOT_NOT_FOUND',
      [`${FORGED_CHANNEL}#1`, 'max-age'],
      scene.restoreArgs('--max-age', '1h'),
      5,
    );
    await rm(join(scene.storeDir, 'presync.json'));
    await refused('REPOSITORY_NOT_FOUND', [scene.storeDir, 'presync.json'], scene.restoreArgs(), 5);
  });

  it('several channels, and none is named', async () => {
    await forge();
    await writeFile(join(scene.storeDir, 'channels/dev/x'), '');
    await mkdir(join(scene.storeDir, 'channels/dev/paritydb'), { recursive: true });
    await writeFile(join(scene.storeDir, 'channels/dev/paritydb/latest.json'), '{}');
    await refused('CONFIG_INVALID', ['dev/rocksdb', 'dev/paritydb'], scene.restoreArgs(), 2);
  });

  it('bootstrap refuses in the same way, and starts no node', async () => {
    const stranger = generateKey();
    await forge({ keys: [stranger] });
    const witness = join(scene.dir, 'node-was-started');
    const { target, store, trust, stateDir } = scene;
    const args = [
      'bootstrap',
      '--base-path',
      target,
      '--store',
      store,
      '--trust',
      trust,
      '--state-dir',
      stateDir,
    ];
    const outcome = await presync([...args, '--admin-listen', 'none', '--', 'touch', witness]);
    assert.equal(outcome.code, 4, outcome.stderr);
    assert.match(outcome.stderr, /Code: MANIFEST_UNTRUSTED/);
    await assert.rejects(readFile(witness), { code: 'ENOENT' });
    await assert.rejects(readFile(target), { code: 'ENOENT' });
  });
});

/** A base path with a database that is one by its names. */
async function writeSource(basePath: string): Promise<void> {
  await mkdir(join(basePath, FORGED_PART), { recursive: true });
  const versions = [
    { path: `${FORGED_PART}/db_version`, content: Buffer.from('4') },
    { path: `${FORGED_PART}/IDENTITY`, content: Buffer.from('2f1d6b0e-1c2d-4e3f-8a9b-0c1d2e3f4a5b') },
  ];
  for (const { path, content } of [...soundFiles(), ...versions])
    await writeFile(join(basePath, path), content);
}
