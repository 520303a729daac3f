import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chown, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { mountOf } from '../src/lib/disk-kind.ts';
import type { PreflightOptions } from '../src/preflight.ts';
import {
  type Changes,
  createPreflightScene,
  OTHER,
  PART,
  type PreflightScene,
  ROCKSDB,
  summary,
} from './support/preflight-scene.ts';

const IS_ROOT = process.getuid?.() === 0;
const arguments_ = '--base-path BASE --chain polkadot --database paritydb';

let scene: PreflightScene;
let base: string;
before(async () => {
  scene = await createPreflightScene();
  ({ base } = scene);
});
afterEach(() => scene.clear());
after(() => scene.end());

describe('a preflight', () => {
  it('of a chain that a specification names, and of its relay chain', async () => {
    const spec = join(scene.dir, 'asset.json');
    await writeFile(spec, '{"name":"x","id":"asset-hub","relay_chain":"polkadot","genesis":{"raw":{}}}');
    const relay = (id: string) => ({ ...ROCKSDB, role: 'relay', path: `polkadot/chains/${id}/db/full` });
    const parts = (id = 'polkadot') =>
      [{ ...PART, path: 'chains/asset-hub/paritydb/full' }, relay(id)].map((part) => ({
        ...part,
        basePath: base,
      }));
    const args = `-d BASE --chain ${spec} --database paritydb`;
    const subject = { specId: 'asset-hub', genesisHash: OTHER, parts: parts() };
    const of = async (more: Changes): Promise<string[]> =>
      summary(
        (await scene.against({ args, subject, ...more })).filter(
          ({ check }) => check !== 'disk' && check !== 'files',
        ),
      );
    assert.deepEqual(await of({}), []);
    assert.deepEqual(await of({ args: `${args} -- --chain polkadot --database auto -d BASE/polkadot` }), []);
    assert.deepEqual(await of({ subject: { ...subject, specId: 'other' } }), ['chain refusal TARGET_CHAIN']);
    assert.deepEqual(await of({ subject: { ...subject, parts: parts('ksmcc3') } }), [
      'chain refusal TARGET_CHAIN',
    ]);
    assert.deepEqual(await of({ args: `${args} -- --chain kusama` }), ['chain refusal TARGET_CHAIN']);
    assert.deepEqual(await of({ args: `${args} -- --database paritydb` }), [
      'backend refusal TARGET_BACKEND',
    ]);
    assert.deepEqual(await of({ args: `${args} -- -d /relay` }), ['paths refusal TARGET_PATH']);
    const apart = { relayBasePath: '/relay', restores: false };
    assert.deepEqual(await of({ args: `${args} -- -d /relay`, options: apart }), []);
    assert.deepEqual(await of({ options: apart }), ['paths refusal TARGET_PATH']);
    assert.deepEqual(await of({ args: `${args} --relay-chain-rpc-urls ws://a` }), ['paths warning']);
    const alone = { ...subject, parts: parts().slice(0, 1) };
    assert.deepEqual(await of({ args: `${args} -- --chain polkadot`, subject: alone }), ['paths warning']);
    await mkdir(join(base, 'polkadot/chains/polkadot'), { recursive: true });
    assert.deepEqual(await of({ args: `${args} -- --chain polkadot`, subject: alone }), []);
  });

  it("of a relay chain's stale database beside the one that is restored", async () => {
    const stale = join(base, 'polkadot/chains/polkadot/paritydb/full');
    await mkdir(stale, { recursive: true });
    await writeFile(join(stale, 'metadata'), 'version=8\n');
    const parts = [
      { ...PART, basePath: base },
      { ...ROCKSDB, role: 'relay', path: 'polkadot/chains/polkadot/db/full', basePath: base },
    ];
    const found = await scene.against({ subject: { parts }, options: { node: undefined } });
    const sibling = found.find(({ check }) => check === 'sibling');
    assert.equal(sibling?.code, 'TARGET_BACKEND');
    assert.ok(sibling?.message.includes(stale), sibling?.message);
  });

  it('of a stale database beside it: a warning where the node is told which to open', async () => {
    const stale = join(base, 'chains/polkadot/db/full');
    await mkdir(stale, { recursive: true });
    await writeFile(join(stale, 'CURRENT'), 'MANIFEST-000001\n');
    const of = async (args: string): Promise<string[]> =>
      summary((await scene.against({ args })).filter(({ check }) => check === 'sibling'));
    assert.deepEqual(await of(`${arguments_}`), ['sibling warning']);
    assert.deepEqual(await of('-d BASE --chain polkadot --database auto'), [
      'sibling refusal TARGET_BACKEND',
    ]);
    assert.deepEqual(await of('-d BASE --chain polkadot'), ['sibling refusal TARGET_BACKEND']);
  });

  it('of a base path that is the same by a symbolic link', async () => {
    const link = join(scene.dir, 'link');
    await mkdir(base);
    await symlink(base, link);
    const found = await scene.against({ args: `-d ${link}/. --chain polkadot --database paritydb` });
    assert.deepEqual(summary(found.filter(({ check }) => check === 'paths')), []);
  });

  it('of a database that is there already', async () => {
    const full = join(base, PART.path);
    await mkdir(full, { recursive: true });
    await writeFile(join(full, 'table'), Buffer.alloc(100_000));
    const of = async (options: Partial<PreflightOptions>): Promise<string[]> =>
      summary((await scene.against({ options })).filter(({ check }) => check === 'existing'));
    assert.deepEqual(await of({ existing: 'refuse' }), ['existing refusal TARGET_NOT_EMPTY']);
    assert.deepEqual(await of({ existing: 'keep' }), ['existing refusal TARGET_NOT_EMPTY']);
    assert.deepEqual(await of({ existing: 'keep', restores: false }), []);
    assert.deepEqual(await of({ existing: 'replace' }), []);
    const room = await scene.against({ options: { existing: 'replace' }, subject: { bytes: 2 ** 60 } });
    assert.match(
      room.find(({ check }) => check === 'room')?.message ?? '',
      /old database \(.*\) stays until/,
    );
  });

  it('of the version of the node', async () => {
    const of = async (answer: string, subject: Changes['subject']): Promise<string[]> => {
      const path = await scene.executable('polkadot-omni-node', answer);
      const args = `--base-path ${base} --chain polkadot`.split(' ');
      const options = { node: { command: [path, ...args] } };
      const parts = [{ ...ROCKSDB, basePath: base, ...subject?.parts?.[0] }];
      const found = await scene.against({ subject: { ...subject, parts }, options });
      return summary(found.filter(({ check }) => check === 'version'));
    };
    const later = { parts: [{ ...ROCKSDB, databaseVersion: '5', basePath: base }] };
    const told = { implementation: 'polkadot-omni-node', version: '1.26.0-abc' };
    assert.deepEqual(await of('polkadot-omni-node 1.25.1-abc', {}), []);
    assert.deepEqual(await of('polkadot-omni-node 1.25.1-abc', later), ['version refusal TARGET_VERSION']);
    assert.deepEqual(await of('polkadot-omni-node 1.26.0-abc', later), []);
    assert.deepEqual(await of('frontier-node 0.9.0', later), []);
    assert.deepEqual(await of('polkadot-omni-node 1.25.1-abc', told), ['version warning']);
    assert.deepEqual(await of('polkadot-omni-node 1.26.0', told), []);
    assert.deepEqual(await of('other-node 1.25.1', told), []);
    assert.deepEqual(await of('no version at all', told), []);
  });

  it("of the node's user", needs('root', IS_ROOT), async () => {
    const of = async (options: Partial<PreflightOptions>, uid = 65_534): Promise<string[]> => {
      // A command belongs to who runs presync; units of other users are read in the test with systemd.
      const run = `import { preflight } from ${JSON.stringify(join(import.meta.dirname, '../src/preflight.ts'))};
const found = await preflight({ ...${JSON.stringify({ ...scene.options(), ...options })}, measureClock: undefined, signal: new AbortController().signal });
console.log(JSON.stringify(found.filter(({ check, verdict }) => check === 'owner' && verdict !== 'pass')));`;
      await writeFile(join(scene.dir, 'run.ts'), run);
      const as = { uid, gid: uid };
      return summary(JSON.parse(execFileSync(process.execPath, [join(scene.dir, 'run.ts')], as).toString()));
    };
    assert.deepEqual(await of({}), []);
    assert.deepEqual(await of({ owner: { uid: 1, gid: 1 } }), ['owner refusal TARGET_OWNER']);
    await mkdir(join(base, 'chains/polkadot'), { recursive: true });
    assert.deepEqual(await of({}), ['owner refusal TARGET_OWNER']);
    await chown(join(base, 'chains/polkadot'), 65_534, 65_534);
    assert.deepEqual(await of({}), []);
    assert.deepEqual(await of({ owner: { uid: 1, gid: 1 } }, 0), []);
  });

  it('of a folder that no rename can replace', needs('root, to mount a file system', IS_ROOT), async () => {
    const full = join(base, PART.path);
    await mkdir(full, { recursive: true });
    // Of the same file system, so that its number tells nothing.
    execFileSync('mount', ['--bind', full, full]);
    try {
      for (const existing of ['refuse', 'replace'] as const) {
        const found = await scene.against({ options: { existing } });
        const about = found.filter(({ check }) => check === 'existing');
        assert.deepEqual(summary(about), ['existing refusal TARGET_UNWRITABLE']);
        assert.match(about[0]?.message ?? '', /mount point/);
      }
    } finally {
      execFileSync('umount', [full]);
    }
  });

  it('of a disk that is none', needs('root, to mount a file system', IS_ROOT), async () => {
    await mkdir(base);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', base]);
    try {
      const found = await scene.against({});
      const disk = found.find(({ check }) => check === 'disk');
      assert.equal(disk?.verdict, 'warning');
      assert.match(disk?.message ?? '', /tmpfs.*gone after a reboot/);
    } finally {
      execFileSync('umount', [base]);
    }
  });
});

describe('the mount that a path lies in', () => {
  it('is the deepest, and the last of several', () => {
    const table = `22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 0:5 / /data rw - tmpfs none rw
24 22 0:6 / /data rw shared:1 - nfs4 server:/x rw
25 22 0:7 / /data/my\\040disk rw - xfs /dev/sdb1 rw`;
    const at = (path: string) => mountOf(path, table)?.fileSystem;
    const paths = ['/', '/database', '/data', '/data/x', '/data/my disk/x'];
    assert.deepEqual(paths.map(at), ['ext4', 'ext4', 'nfs4', 'nfs4', 'xfs']);
    assert.equal(mountOf('/x', ''), undefined);
  });
});
