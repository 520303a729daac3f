/** `presync store check` on each kind of store, whole and with each permission missing in turn: it names the missing one, and leaves nothing behind. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { presync, startPresync } from '../support/presync.ts';
import { CHECK_SCENES, type CheckScene } from '../support/store-check-scenes.ts';

interface Document {
  ok: boolean;
  as: string;
  permissions: {
    missingForReader: string[];
    missingForWriter: string[] | null;
    checks: { permission: string; outcome: string; names: string[]; hint: string | null }[];
  } | null;
  promises: { cases: { name: string; outcome: string }[] } | null;
  clock: { verdict: string; skewMs: number } | null;
  speed: { get: { recommended: number } | null } | null;
  cost: { costs: { provider: string; total: number }[] } | null;
  left: { key: string }[];
  problems: { about: string; code: string; message: string; hint: string | null; exit: number }[];
}

for (const { kind, needs: wanted, open } of CHECK_SCENES) {
  describe(`store check, ${kind}`, needs(wanted.what, wanted.found), () => {
    const cleanUps: (() => Promise<unknown>)[] = [];
    let scenes: CheckScene[] = [];
    before(async () => {
      scenes = await open((cleanUp) => void cleanUps.unshift(cleanUp));
    });
    after(async () => {
      for (const cleanUp of cleanUps) await cleanUp();
    });

    it('finds that all is well, and tells it', async () => {
      for (const scene of scenes.filter(({ exit }) => exit === 0)) {
        const found = await check(scene);
        assert.deepEqual(found.problems, [], JSON.stringify(found.problems));
        assert.equal(found.ok, true);
        assert.deepEqual(found.left, []);
        assert.ok(found.promises !== null && found.promises.cases.length >= 5);
        assert.deepEqual(
          found.promises.cases.filter(({ outcome }) => outcome === 'failed'),
          [],
        );
        if (kind === 'file') assert.equal(found.clock, null);
        else assert.equal(found.clock?.verdict, 'ok');
        assert.ok((found.speed?.get?.recommended ?? 0) >= 1, JSON.stringify(found.speed));
        assert.ok((found.cost?.costs.length ?? 0) >= 5);
      }
    });

    it('names what is missing', async () => {
      for (const [index, scene] of scenes.filter(({ exit }) => exit !== 0).entries()) {
        const found = await check(scene);
        if (index === 0) await textTells(scene, found);
        assert.equal(found.ok, false);
        const { missingForReader = [], missingForWriter } = found.permissions ?? {};
        const missing = found.as === 'writer' ? (missingForWriter ?? []) : missingForReader;
        assert.deepEqual(missing.toSorted(), scene.missing.toSorted(), scene.name);
        for (const name of scene.missing) {
          assert.ok(
            found.problems.some((problem) => problem.message.includes(name) && problem.hint !== null),
            `${scene.name}: no problem tells of ${name} and what to do: ${JSON.stringify(found.problems)}`,
          );
        }
        // What is not allowed breaks no promise.
        assert.ok(!found.problems.some(({ about }) => about === 'promise'), scene.name);
      }
    });
  });
}

async function check({ name, args, env, user, exit }: CheckScene): Promise<Document> {
  const { code, stdout, stderr, json } = await presync(['store', 'check', ...args, '--json'], { env, user });
  assert.equal(code, exit, `${name}: ${stdout}${stderr}`);
  return json as Document;
}

/** The text tells the same as the document. */
async function textTells({ name, args, env, user, exit }: CheckScene, found: Document): Promise<void> {
  const { code, stdout } = await presync(['store', 'check', ...args], { env, user });
  assert.equal(code, exit, name);
  for (const { message, hint } of found.problems) {
    // Keys of a check and numbers of requests are others each time.
    const [first = ''] = message.split(/ ?checks\/| \(request/);
    assert.ok(stdout.includes(first), `${name}: the text does not say "${first}":\n${stdout}`);
    if (hint !== null && !hint.includes('checks/')) assert.ok(stdout.includes(hint), `${name}: ${hint}`);
  }
}

describe('store check', () => {
  let dir = '';
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'presync-store-check-'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it('tells its text, writes its report, and leaves nothing behind', async () => {
    const store = join(dir, 'store');
    const report = join(dir, 'report.json');
    const args = ['--store', `file://${store}`, '--speed-time', '400ms', '--database-size', '1TB'];
    const { code, stdout, stderr } = await presync(['store', 'check', ...args, '--report', report]);
    assert.equal(code, 0, stderr);
    for (const part of [
      /^Permissions$/m,
      /^ {2}To restore, nothing is missing\.$/m,
      /^ {2}To publish, nothing is missing\.$/m,
      /^Promises$/m,
      /conditional writes +5 of 5 kept/,
      /^Speed, objects of 4 MiB$/m,
      /restore --concurrency \d+/,
      /^Cost$/m,
      /Amazon S3, Standard, us-east-1 +\$[\d,.]+/,
      /List prices/,
      /^All is well: presync can publish to this store\.$/m,
    ])
      assert.match(stdout, part);
    assert.equal(JSON.parse(await readFile(report, 'utf8')).ok, true);
    assert.deepEqual(await objectsIn(store), []);
  });

  it('cleans up when it is stopped', async () => {
    const store = join(dir, 'stopped');
    const running = startPresync(['store', 'check', '--store', `file://${store}`, '--speed-time', '10m']);
    // Until it has put something.
    for (let waited = 0; waited < 30_000 && (await objectsIn(store)).length === 0; waited += 20)
      await delay(20);
    await delay(300);
    running.child.kill('SIGTERM');
    const { code, stdout, stderr } = await running.done;
    assert.equal(code, 143, `${stdout}${stderr}`);
    assert.deepEqual(await objectsIn(store), [], stderr);
  });

  it('does not check a writer where nothing can be written', async () => {
    const { code, stderr } = await presync([
      'store',
      'check',
      '--store',
      'http://127.0.0.1:9/x',
      '--as',
      'writer',
    ]);
    assert.equal(code, 7);
    assert.match(stderr, /STORE_READ_ONLY/);
  });
});

/** Files of a store's objects, without what the adapter keeps beside them. */
async function objectsIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1))
    .filter((path) => !path.startsWith('.'));
}
