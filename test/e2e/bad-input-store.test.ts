/** Stores that cannot be used: absent, forbidden, read-only, without conditional writes, or full of something else. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { openStore } from '@presync/store/open';
import { assertRefused, createScene, type RefusalOutcome, type Scene } from '../support/bad-input.ts';
import { forgeSnapshot } from '../support/forge.ts';
import { needs } from '../support/needs.ts';
import { presyncOk } from '../support/presync.ts';
import { unpackFixture } from '../support/real-node.ts';
import { startForgetfulProxy } from '../support/s3-forgetful.ts';
import { findS3Server, type S3Server, startS3Server } from '../support/s3-server.ts';
import { listTree } from '../support/tree.ts';

/** Root may do what a test wants forbidden, so presync runs as nobody where the tests run as root. */
const IS_ROOT = process.getuid?.() === 0;
const NOBODY = 65_534;

describe('a store that cannot be used', () => {
  const cleanups: (() => Promise<void>)[] = [];
  let scene: Scene;
  before(async () => {
    scene = await createScene({ after: (fn) => void cleanups.push(fn) });
    await unpackFixture('rocksdb', scene.source);
    await mkdir(scene.stateDir);
    if (IS_ROOT)
      execFileSync('chown', ['-R', `${NOBODY}:${NOBODY}`, scene.source, scene.stateDir, scene.keyFile]);
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  async function refused(
    expected: {
      code: string;
      exit?: number;
      names: (string | RegExp)[];
      unchanged?: string[];
      ignore?: string[];
    },
    args: string[],
    env?: NodeJS.ProcessEnv,
  ): Promise<RefusalOutcome> {
    const { source, stateDir, target } = scene;
    return assertRefused({
      exit: 7,
      ...expected,
      args,
      unchanged: [source, stateDir, target, ...(expected.unchanged ?? [])],
      options: { user: IS_ROOT ? NOBODY : undefined, env: { HOME: scene.dir, ...env } },
    });
  }

  /** The commands that only read. */
  function readers(store: string): string[][] {
    const state = ['--state-dir', scene.stateDir, '--trust', scene.trust];
    return [
      scene.restoreArgs('--store', store),
      ['list', '--store', store],
      ['verify', '--store', store, ...state],
      ['show', '--store', store, ...state],
    ];
  }

  it('a folder that is absent, with its parent', async () => {
    const folder = join(scene.dir, 'no', 'store');
    const store = pathToFileURL(folder).href;
    await refused(
      { code: 'STORE_NOT_FOUND', names: [dirname(folder)] },
      scene.snapshotArgs('--store', store),
    );
    for (const args of readers(store)) await refused({ code: 'STORE_NOT_FOUND', names: [folder] }, args);
    assert.deepEqual(await listTree(join(scene.dir, 'no')), []);
  });

  it('a folder that is absent, for those who only read; they do not make it', async () => {
    const folder = join(scene.dir, 'not-yet');
    for (const args of readers(pathToFileURL(folder).href))
      await refused({ code: 'STORE_NOT_FOUND', names: [folder] }, args);
    assert.deepEqual(await listTree(folder), []);
  });

  it('a file where the folder should be', async () => {
    const file = join(scene.dir, 'a-file');
    await writeFile(file, 'content');
    for (const args of readers(pathToFileURL(file).href))
      await refused({ code: 'STORE_NOT_FOUND', names: [file], unchanged: [file] }, args);
  });

  it('a folder that may not be looked into', async () => {
    const folder = join(scene.dir, 'forbidden');
    await mkdir(folder);
    await chmod(folder, 0o000);
    try {
      const store = pathToFileURL(folder).href;
      for (const args of [scene.snapshotArgs('--store', store), ...readers(store)])
        await refused({ code: 'STORE_FORBIDDEN', names: [folder] }, args);
    } finally {
      await chmod(folder, 0o755);
    }
    assert.equal((await listTree(folder)).length, 1);
  });

  it('a folder that may be read and not written, where restoring still works', async () => {
    const folder = join(scene.dir, 'read-only');
    const store = pathToFileURL(folder).href;
    await forgeSnapshot({ storeDir: folder, keys: [scene.key] });
    await chmod(folder, 0o555);
    try {
      await refused(
        { code: 'STORE_FORBIDDEN', names: [folder], unchanged: [folder] },
        scene.snapshotArgs('--store', store),
      );
      await presyncOk(['verify', '--store', store, '--trust', scene.trust, '--state-dir', scene.stateDir], {
        user: IS_ROOT ? NOBODY : undefined,
      });
    } finally {
      await chmod(folder, 0o755);
    }
  });

  it('a file system that is mounted read-only', needs('root, to mount a file system', IS_ROOT), async () => {
    const folder = join(scene.dir, 'mounted');
    await mkdir(folder);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0777', 'tmpfs', folder]);
    try {
      execFileSync('mount', ['-o', 'remount,ro', folder]);
      const store = pathToFileURL(folder).href;
      await refused(
        { code: 'STORE_READ_ONLY', names: [folder], unchanged: [folder] },
        scene.snapshotArgs('--store', store),
      );
    } finally {
      execFileSync('umount', [folder]);
    }
  });

  it('a store without room', needs('root, to mount a file system', IS_ROOT), async () => {
    const folder = join(scene.dir, 'small');
    await mkdir(folder);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0777', 'tmpfs', folder]);
    try {
      const store = pathToFileURL(folder).href;
      await refused({ code: 'NO_SPACE', exit: 6, names: [folder] }, scene.snapshotArgs('--store', store));
      const left = (await listTree(folder)).join('\n');
      assert.doesNotMatch(left, /manifest\.json|latest\.json|index\.zst/);
      assert.doesNotMatch(left, /leases\/writer\/\S+ file/);
    } finally {
      execFileSync('umount', [folder]);
    }
  });

  it('a folder that holds something else, to which not a byte is written', async () => {
    const folder = join(scene.dir, 'occupied');
    await mkdir(join(folder, 'holiday'), { recursive: true });
    await writeFile(join(folder, 'holiday', 'beach.jpg'), 'sand');
    if (IS_ROOT) execFileSync('chown', ['-R', `${NOBODY}:${NOBODY}`, folder]);
    const store = pathToFileURL(folder).href;
    await refused(
      { code: 'STORE_OCCUPIED', names: [folder, 'holiday/beach.jpg'], unchanged: [folder] },
      scene.snapshotArgs('--store', store),
    );
    for (const args of readers(store))
      await refused(
        { code: 'REPOSITORY_NOT_FOUND', exit: 5, names: [folder, 'presync.json'], unchanged: [folder] },
        args,
      );
  });

  it('a presync.json that is somebody else’s', async () => {
    const folder = join(scene.dir, 'foreign');
    await mkdir(folder);
    const store = pathToFileURL(folder).href;
    for (const content of [
      '',
      'null',
      '{"presync":"settings"}',
      '{"presync":"repository","version":1,"id":"x"}',
      '\u0000\u0001',
    ]) {
      await writeFile(join(folder, 'presync.json'), content);
      for (const args of [scene.snapshotArgs('--store', store), scene.restoreArgs('--store', store)])
        await refused(
          { code: 'FORMAT_INVALID', exit: 4, names: ['presync.json', folder], unchanged: [folder] },
          args,
        );
    }
  });

  it('a server that does not answer', async () => {
    const store = 's3://bucket/p?region=us-east-1&pathStyle=1&endpoint=http%3A%2F%2F127.0.0.1%3A1';
    const env = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b', AWS_EC2_METADATA_DISABLED: 'true' };
    await refused(
      { code: 'STORE_UNREACHABLE', names: ['127.0.0.1:1'] },
      scene.restoreArgs('--store', store),
      env,
    );
  });

  it('memory: which another process never sees', async () => {
    await refused(
      { code: 'REPOSITORY_NOT_FOUND', exit: 5, names: ['memory:'] },
      scene.restoreArgs('--store', 'memory:'),
    );
  });

  describe('on S3', needs('versitygw', findS3Server() !== undefined), () => {
    let server: S3Server;
    before(async () => {
      server = await startS3Server();
      Object.assign(process.env, server.env);
    });
    after(async () => {
      for (const name of Object.keys(server.env)) delete process.env[name];
      await server.stop();
    });
    const at = (prefix: string, url = server.url): string => url.replace('?', `/${prefix}?`);

    it('a bucket that is absent', async () => {
      const store = at('p').replace(server.bucket, 'no-such-bucket');
      for (const args of [scene.snapshotArgs('--store', store), ...readers(store)])
        await refused(
          { code: 'STORE_NOT_FOUND', names: ['no-such-bucket'], unchanged: [server.dir] },
          args,
          server.env,
        );
    });

    it('a wrong secret, and none at all', async () => {
      const secret = 'wrong-secret-that-must-not-be-shown';
      const cases: NodeJS.ProcessEnv[] = [
        { ...server.env, AWS_SECRET_ACCESS_KEY: secret },
        { AWS_EC2_METADATA_DISABLED: 'true', AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '' },
      ];
      for (const env of cases) {
        for (const args of [scene.snapshotArgs('--store', at('p')), scene.restoreArgs('--store', at('p'))]) {
          const outcome = await refused(
            { code: 'STORE_FORBIDDEN', names: [/s3:\/\/presync-test\/p/], unchanged: [server.dir] },
            args,
            env,
          );
          assert.ok(!(outcome.stdout + outcome.stderr).includes(secret));
        }
      }
    });

    it('a prefix that holds something else; one beside it is fine', async () => {
      const photos = await openStore(server.url, { signal: new AbortController().signal });
      await photos.put('photos/beach.jpg', Buffer.from('sand'), { signal: new AbortController().signal });
      await photos.close();
      await refused(
        { code: 'STORE_OCCUPIED', names: [/photos/, 'beach.jpg'], unchanged: [server.dir] },
        scene.snapshotArgs('--store', at('photos')),
        server.env,
      );
      await refused(
        { code: 'STORE_OCCUPIED', names: ['photos/beach.jpg'], unchanged: [server.dir] },
        scene.snapshotArgs('--store', server.url),
        server.env,
      );
    });

    it('a server that forgets the conditions of writes: nothing is published', async () => {
      const proxy = await startForgetfulProxy(server);
      const published = async (): Promise<string[]> =>
        (await listTree(join(server.dir, server.bucket))).filter((line) => / file /.test(line));
      try {
        const before = await published();
        const store = at('forgetful', proxy.url);
        await refused(
          { code: 'STORE_NO_CONDITIONAL_WRITES', names: [/s3:\/\/presync-test\/forgetful/] },
          scene.snapshotArgs('--store', store),
          server.env,
        );
        assert.ok(proxy.dropped() > 0, 'the proxy dropped nothing');
        assert.deepEqual(await published(), before);
        await refused(
          { code: 'STORE_NO_CONDITIONAL_WRITES', names: ['forgetful'] },
          scene.snapshotArgs('--store', store, '--dry-run'),
          server.env,
        );
        assert.deepEqual(await published(), before);
      } finally {
        await proxy.stop();
      }
      // The same server without the proxy is published to, so the refusal came from the conditions alone.
      const options = { env: { ...server.env, HOME: scene.dir }, user: IS_ROOT ? NOBODY : undefined };
      await presyncOk(scene.snapshotArgs('--store', at('honest')), options);
      await rm(join(scene.stateDir, 'source-dev-rocksdb.record'));
      const state = ['--state-dir', scene.stateDir];
      await presyncOk(['verify', '--store', at('honest'), '--trust', scene.trust, ...state], options);
    });
  });
});
