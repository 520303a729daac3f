/** What users install: the single executable and the Debian package, built once for the sources as they are. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, globSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { buildDebianPackage } from '../../scripts/lib/package/debian.ts';
import { type BuiltExecutable, buildExecutable } from '../../scripts/lib/package/executable.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const CACHE = join(ROOT, '.cache/package');

/** Everything that decides what is in the package, besides Node itself. */
const SOURCES = [
  'packages/*/{src,bin}/**/*',
  'packages/*/package.json',
  'package-lock.json',
  'scripts/lib/package/*.ts',
  'deploy/cloud-init/*',
  'deploy/debian/*',
  'systemd/*',
];

export interface BuiltPackage {
  /** The executable. */
  executable: string;
  /** The Debian package; undefined where `dpkg-deb` is missing. */
  deb: string | undefined;
  version: string;
}

let building: Promise<BuiltPackage> | undefined;

/** Both, built on the first call unless an earlier run of tests has built them from the same sources. */
export function builtPackage(): Promise<BuiltPackage> {
  building ??= buildOnce();
  return building;
}

async function buildOnce(): Promise<BuiltPackage> {
  const folder = join(CACHE, await sourcesDigest());
  const record = join(folder, 'built.json');
  if (!existsSync(record)) {
    await mkdir(CACHE, { recursive: true });
    const work = await mkdtemp(join(CACHE, 'build-'));
    try {
      const executable = await buildExecutable(join(work, 'presync'));
      const deb = (await hasProgram('dpkg-deb')) ? await buildDebianPackage(executable, work) : undefined;
      const name = deb?.slice(work.length + 1) ?? null;
      await writeFile(join(work, 'built.json'), JSON.stringify({ version: executable.version, deb: name }));
      // Several test files may come here at once; whoever is last keeps what the first has put there.
      await rename(work, folder).catch((error: unknown) => {
        if (!existsSync(record)) throw error;
      });
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
  const { version, deb }: { version: string; deb: string | null } = JSON.parse(
    await readFile(record, 'utf8'),
  );
  return { executable: join(folder, 'presync'), deb: deb === null ? undefined : join(folder, deb), version };
}

async function sourcesDigest(): Promise<string> {
  const hash = createHash('sha256').update(process.version);
  for (const path of globSync(SOURCES, { cwd: ROOT, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted()) {
    hash.update(`${path.slice(ROOT.length)}\0`).update(await readFile(path));
  }
  return hash.digest('hex').slice(0, 16);
}

export async function hasProgram(name: string): Promise<boolean> {
  return promisify(execFile)('sh', ['-c', 'command -v -- "$1"', 'sh', name], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  }).then(
    () => true,
    () => false,
  );
}

/** The same executable, described as its builder does, for tests that pack it themselves. */
export async function describeExecutable({ executable, version }: BuiltPackage): Promise<BuiltExecutable> {
  return { path: executable, version, inputs: [] };
}
