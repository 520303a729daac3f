/**
 * DESIGN 4: keystore, network keys and whatever looks like a secret can never be in a snapshot. A base path is filled with keys and
 * look-alikes that all hold a marker; then every stored byte is decoded and searched for the markers, and for the signing key.
 */
import assert from 'node:assert/strict';
import { createPrivateKey, randomBytes } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { assertRefused, createScene, type Scene } from '../support/bad-input.ts';
import { presyncOk } from '../support/presync.ts';
import { type FixtureBackend, unpackFixture } from '../support/real-node.ts';

const decompress = promisify(zstdDecompress);
const PART = { rocksdb: 'chains/dev/db/full', paritydb: 'chains/dev/paritydb/full' } as const;

/** Places of secrets in the field, and of things that look like them. Relative to the base path, or to the folder that holds it. */
const SECRETS = (part: string): string[] => [
  'chains/dev/keystore/6175726150f5a1b2c3d4',
  'chains/dev/keystore/6772616e.json',
  'chains/dev/network/secret_ed25519',
  'chains/dev/network/secret_ed25519.old',
  'chains/dev/secret_ed25519',
  'chains/dev/node-key',
  'keystore/aura',
  'network/secret_ed25519',
  'secret_ed25519',
  'node.pem',
  'tls-key.pem',
  'seed-phrase.txt',
  '.ssh/id_ed25519',
  '.aws/credentials',
  '.env',
  // Beside the database, and above it, under names that a database has.
  `${dirname(part)}/seed.txt`,
  `${dirname(part)}/000001.log`,
  `${dirname(part)}/IDENTITY`,
  `${dirname(part)}/node.pem`,
  `${dirname(part)}/backup/000001.sst`,
  `${dirname(part)}/.presync-notes`,
  'chains/dev/000002.sst',
  'chains/dev/parachains/keystore/para',
  'chains/dev/offchain/seed',
  'chains/dev/backup-full/table_00_00',
  'polkadot/chains/polkadot/network/secret_ed25519',
  'polkadot/chains/polkadot/keystore/gran',
  '../id_ed25519',
  '../wallet.json',
];

interface Marker {
  where: string;
  bytes: Buffer;
}

async function plant(basePath: string, part: string): Promise<Marker[]> {
  const markers: Marker[] = [];
  for (const where of SECRETS(part)) {
    const bytes = randomBytes(24);
    const path = join(basePath, where);
    await mkdir(dirname(path), { recursive: true });
    // In the three ways in which a key may lie in a file.
    await writeFile(
      path,
      Buffer.concat([bytes, Buffer.from(`\n${bytes.toString('hex')}\n${bytes.toString('base64')}\n`)]),
      {
        mode: 0o600,
      },
    );
    for (const text of [bytes, Buffer.from(bytes.toString('hex')), Buffer.from(bytes.toString('base64'))])
      markers.push({ where, bytes: text });
  }
  return markers;
}

/** The signing key as it could leak: its file, the seed, in base64 and hexadecimal. */
async function keyMarkers({ keyFile }: Scene): Promise<Marker[]> {
  const pem = await readFile(keyFile, 'utf8');
  const seed = Buffer.from(createPrivateKey(pem).export({ format: 'jwk' }).d ?? '', 'base64url');
  assert.equal(seed.length, 32);
  const body = pem.split('\n').find((line) => !line.startsWith('-') && line.length > 20) ?? '';
  assert.ok(body.length > 60);
  return [
    ['raw', seed],
    ['hex', Buffer.from(seed.toString('hex'))],
    ['base64', Buffer.from(seed.toString('base64').slice(0, 42))],
    ['base64url', Buffer.from(seed.toString('base64url'))],
    ['PEM', Buffer.from(body)],
    ['PEM label', Buffer.from('PRIVATE KEY')],
  ].map(([where, bytes]) => ({ where: `signing key, ${where}`, bytes: Buffer.from(bytes ?? '') }));
}

async function filesBelow(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

/** Every object of a file store as it is and decoded: frames unfolded, and the payload of signed documents. */
async function* storedBytes(storeDir: string): AsyncGenerator<{ name: string; bytes: Buffer }> {
  for (const path of await filesBelow(storeDir)) {
    const name = relative(storeDir, path);
    const bytes = await readFile(path);
    yield { name, bytes };
    if (bytes.length > 4 && bytes.readUInt32LE(0) === 0xfd2fb528)
      yield { name: `${name} (decoded)`, bytes: await decompress(bytes) };
    const payload = /"payload": "([A-Za-z0-9+/=]+)"/.exec(bytes.toString('latin1'))?.[1];
    if (payload !== undefined) yield { name: `${name} (payload)`, bytes: Buffer.from(payload, 'base64') };
  }
}

async function leaks(storeDir: string, markers: readonly Marker[]): Promise<string[]> {
  const found: string[] = [];
  let decoded = 0;
  for await (const { name, bytes } of storedBytes(storeDir)) {
    if (name.endsWith('(decoded)')) decoded += 1;
    for (const marker of markers) if (bytes.includes(marker.bytes)) found.push(`${marker.where} in ${name}`);
  }
  assert.ok(decoded >= 2, 'the scan decoded no frames');
  return found;
}

describe('secrets', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const satisfies FixtureBackend[]) {
    it(`of a base path with ${backend} are in no stored byte`, async (t) => {
      const scene = await createScene(t);
      const basePath = join(scene.dir, 'home', 'node');
      await mkdir(basePath, { recursive: true });
      await unpackFixture(backend, basePath);
      const planted = await plant(basePath, PART[backend]);
      // Files that a database has and a snapshot does not take.
      const skipped = Buffer.from(`skipped ${randomBytes(16).toString('hex')}`);
      for (const name of backend === 'rocksdb'
        ? ['LOG', 'LOG.old.1700000000', 'LOCK', '000998.dbtmp']
        : ['stats.txt', 'lock'])
        await writeFile(join(basePath, PART[backend], name), skipped);
      const markers = [...planted, { where: 'a file that is skipped', bytes: skipped }];
      const keys = await keyMarkers(scene);
      const report = join(scene.dir, 'report.json');
      const args = scene.snapshotArgs('--base-path', basePath, '--report', report, '--verbose');
      // Leases go when a snapshot is done, so they are looked at while it runs.
      const leases = watchFolder(join(scene.storeDir, 'leases'));
      const first = await presyncOk(args);
      const second = await presyncOk([...args, '--json']);
      assert.deepEqual(await leaks(scene.storeDir, [...markers, ...keys]), []);
      const seen = await leases.stop();
      const said = Buffer.concat([
        ...[first, second].flatMap(({ stdout, stderr }) => [Buffer.from(stdout), Buffer.from(stderr)]),
        await readFile(report),
        ...(await Promise.all((await filesBelow(scene.stateDir)).map((path) => readFile(path)))),
        ...seen,
      ]);
      assert.ok(said.length > 1000);
      for (const { where, bytes } of [...keys, ...markers])
        assert.ok(!said.includes(bytes), `${where} was shown or kept`);

      // The restored target has the database's files and nothing else.
      await presyncOk(scene.restoreArgs());
      const restored = await filesBelow(scene.target);
      assert.ok(
        restored.length > 0 &&
          restored.every((path) => dirname(relative(scene.target, path)) === PART[backend]),
      );
      assert.ok((await leaksOfFiles(restored, markers)).length === 0);
    });

    it(`(the scan finds a marker that is in an allowed ${backend} file)`, async (t) => {
      const scene = await createScene(t);
      await unpackFixture(backend, scene.source);
      const marker = { where: 'the control', bytes: randomBytes(24) };
      const mutable = backend === 'rocksdb' ? '000997.log' : 'log99';
      await writeFile(join(scene.source, PART[backend], mutable), marker.bytes);
      await presyncOk(scene.snapshotArgs());
      const found = await leaks(scene.storeDir, [marker]);
      assert.ok(
        found.some((leak) => leak.endsWith('(decoded)')),
        'the scan is blind',
      );
      // And a key in a stored document or in the state directory would be seen as well.
      await copyFile(scene.keyFile, join(scene.storeDir, 'leases-like.json'));
      const keys = await keyMarkers(scene);
      assert.ok((await leaks(scene.storeDir, keys)).some((leak) => leak.includes('PEM')));
    });

    it(`in the ${backend} folder itself stop the run, by name`, async (t) => {
      const scene = await createScene(t);
      await unpackFixture(backend, scene.source);
      const full = join(scene.source, PART[backend]);
      await mkdir(scene.storeDir);
      const refused = (name: string) =>
        assertRefused({
          args: scene.snapshotArgs(),
          code: 'NODE_UNKNOWN_FILE',
          exit: 2,
          names: [name, full],
          unchanged: [scene.source, scene.storeDir, scene.stateDir],
        });
      for (const name of [
        'secret_ed25519',
        'node.pem',
        'keystore',
        '.env',
        'id_ed25519',
        'seed.txt',
        '000001.sst.pem',
        'metadata.bak',
      ]) {
        await writeFile(join(full, name), 'secret');
        await refused(name);
        await rm(join(full, name));
      }
      const link = backend === 'rocksdb' ? '009999.sst' : 'table_99_00';
      await symlink(scene.keyFile, join(full, link));
      await refused(link);
      await rm(join(full, link));
      await mkdir(join(full, 'network'));
      await copyFile(scene.keyFile, join(full, 'network', 'secret_ed25519'));
      await refused('network');
    });
  }
});

async function leaksOfFiles(paths: readonly string[], markers: readonly Marker[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) {
    const bytes = await readFile(path);
    for (const marker of markers) if (bytes.includes(marker.bytes)) found.push(`${marker.where} in ${path}`);
  }
  return found;
}

/** Collects what files of a folder hold while they are there. */
function watchFolder(dir: string): { stop(): Promise<Buffer[]> } {
  const seen = new Map<string, Buffer>();
  let going = true;
  const done = (async () => {
    while (going) {
      for (const path of await filesBelow(dir).catch(() => [])) {
        const bytes = await readFile(path).catch(() => undefined);
        if (bytes !== undefined) seen.set(path, bytes);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  return {
    async stop() {
      going = false;
      await done;
      assert.ok(seen.size > 0, 'no lease was seen');
      return [...seen.values()];
    },
  };
}
