/** Random damage to a repository that holds a real database: each must be detected and named by `verify` and by `restore`, through the command. */
import assert from 'node:assert/strict';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { zeroDigest } from '@presync/format/digest';
import { type IndexedChunk, readIndex } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { corruptRepository, seededRandom } from '../support/corruption.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, type FixtureBackend, unpackFixture } from '../support/real-node.ts';

export interface CorruptionOptions {
  backend: FixtureBackend;
  count: number;
  seed: number;
  dir: string;
  log: (line: string) => void;
}

export interface CorruptionReport {
  backend: FixtureBackend;
  corruptions: number;
  detectedByVerify: number;
  detectedByRestore: number;
  /** How often each exit code was seen. */
  verifyExits: Record<string, number>;
  restoreExits: Record<string, number>;
}

const CHUNK_SIZE = 1024 * 1024;

export async function corruptionCampaign({
  backend,
  count,
  seed,
  dir,
  log,
}: CorruptionOptions): Promise<CorruptionReport> {
  const random = seededRandom(seed);
  const source = join(dir, 'source');
  const storeDir = join(dir, 'store');
  const channel = `dev/${backend}`;
  await unpackFixture(backend, source);
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const store = `file://${storeDir}`;
  const take = [
    ...[
      'snapshot',
      '--base-path',
      source,
      '--store',
      store,
      '--pause',
      'none',
      '--genesis',
      DEV_GENESIS,
      '--sign-key',
      key,
    ],
    ...['--state-dir', join(dir, 'state'), '--chunk-size', `${CHUNK_SIZE / 1024}KiB`, '--json'],
  ];
  let manifest: Manifest | undefined;
  for (let round = 0; round < 3; round++)
    manifest = ((await presyncOk(take)).json as { manifest: Manifest }).manifest;
  assert.ok(manifest !== undefined);
  const chunks = await neededChunks(storeDir, manifest);
  const agent = join(dir, 'agent');
  const verify = ['verify', '--store', store, '--trust', trust, '--state-dir', agent, '--json'];
  const restore = (target: string): string[] => [
    'restore',
    '--base-path',
    target,
    '--store',
    store,
    '--trust',
    trust,
    '--state-dir',
    agent,
    '--json',
    '--channel',
    channel,
    // The same snapshot is mended and damaged again.
    '--retry-failed',
  ];
  // The agent has seen the newest snapshot, so that an older one is a rollback to it.
  await presyncOk(restore(join(dir, 'first')));

  const report: CorruptionReport = {
    backend,
    corruptions: 0,
    detectedByVerify: 0,
    detectedByRestore: 0,
    verifyExits: {},
    restoreExits: {},
  };
  for (let run = 1; run <= count; run++) {
    const damage = await corruptRepository({
      storeDir,
      channel,
      sequence: manifest.sequence,
      chunks,
      random,
    });
    const target = join(dir, 'target');
    const [verified, restored] = [await presync(verify), await presync(restore(target))];
    report.corruptions += 1;
    for (const [outcome, exits, which] of [
      [verified, report.verifyExits, 'verify'],
      [restored, report.restoreExits, 'restore'],
    ] as const) {
      exits[String(outcome.code)] = (exits[String(outcome.code)] ?? 0) + 1;
      assert.ok(
        outcome.code === 4 || outcome.code === 5,
        `${which} ended with ${outcome.code} after: ${damage.what}\n${outcome.stdout}${outcome.stderr}`,
      );
      assert.ok(
        damage.names.some((name) => outcome.stdout.includes(name)),
        `${which} did not name: ${damage.what}\n${outcome.stdout}`,
      );
      if (which === 'verify') report.detectedByVerify += 1;
      else report.detectedByRestore += 1;
    }
    await damage.undo();
    await rm(target, { recursive: true, force: true });
    if (run % 10 === 0) log(`${backend}: ${run} of ${count} corruptions`);
  }
  const sound = await presync(verify);
  assert.equal(sound.code, 0, sound.stdout);
  return report;
}

/** Digests of the chunks that a restore fetches; a whole chunk of zeros never is. */
async function neededChunks(storeDir: string, manifest: Manifest): Promise<string[]> {
  const bytes = await readFile(
    join(storeDir, 'snapshots', manifest.channel, String(manifest.sequence), 'index.zst'),
  );
  const needed = new Set<string>();
  const chunks: AsyncIterable<IndexedChunk> = readIndex(
    (async function* () {
      yield bytes;
    })(),
    {
      length: manifest.index.length,
      chunkSize: CHUNK_SIZE,
      parts: manifest.node.parts.map(({ path }) => path),
      what: 'the index',
      signal: new AbortController().signal,
    },
  );
  for await (const chunk of chunks) {
    if (chunk.segments.length > 0 && chunk.sha256 !== zeroDigest(CHUNK_SIZE)) needed.add(chunk.sha256);
  }
  return [...needed];
}
