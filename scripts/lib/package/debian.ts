/** The Debian package. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, copyFile, lutimes, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { bashCompletion, fishCompletion, zshCompletion } from './completions.ts';
import type { BuiltExecutable } from './executable.ts';
import { commandManual, configManual } from './manual.ts';
import { sampleConfig } from './sample-config.ts';
import { thirdParties } from './third-parties.ts';

const ROOT = resolve(import.meta.dirname, '../../..');
const DEBIAN = join(ROOT, 'deploy/debian');
const UNITS = join(ROOT, 'systemd');

/** Debian's name of what Node calls its architecture. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

const FOLDER = 0o755;
const PROGRAM = 0o755;
const FILE = 0o644;

interface Content {
  /** From the root of the file system. */
  path: string;
  mode: number;
  /** Text, bytes, or a file that is copied. */
  content: string | Uint8Array | { file: string };
}

/**
 * Builds `presync_<version>_<architecture>.deb` in that folder from an executable, with `dpkg-deb`, and gives its path.
 * The same input gives the same bytes: times are those of the newest entry of the changelog, or `SOURCE_DATE_EPOCH`.
 */
export async function buildDebianPackage(executable: BuiltExecutable, folder: string): Promise<string> {
  const architecture = ARCHITECTURES[process.arch];
  if (process.platform !== 'linux' || architecture === undefined)
    throw new Error(`there is no Debian package for ${process.platform} on ${process.arch}`);
  const changelog = await readFile(join(DEBIAN, 'changelog'), 'utf8');
  const entry = newestEntry(changelog);
  if (entry.version !== executable.version)
    throw new Error(
      `the newest entry of deploy/debian/changelog is of ${entry.version}, presync is ${executable.version}`,
    );
  const epoch = Number(process.env.SOURCE_DATE_EPOCH ?? Math.floor(entry.date.getTime() / 1000));
  const output = join(folder, `presync_${executable.version}_${architecture}.deb`);
  await mkdir(folder, { recursive: true });
  const tree = await mkdtemp(`${output}.tree-`);
  try {
    const contents = await packageContents(executable, changelog, new Date(epoch * 1000));
    for (const content of contents) await put(tree, content);
    await putControl(tree, { ...executable, architecture, contents });
    await setTimes(tree, epoch);
    // Some 30 % larger than with xz, which takes six times as long here; zstd is unknown to older tools of Debian.
    const compression = ['-Zgzip', '-z6'];
    await promisify(execFile)('dpkg-deb', ['--root-owner-group', ...compression, '--build', tree, output], {
      env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
    });
    return output;
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function packageContents(
  executable: BuiltExecutable,
  changelog: string,
  date: Date,
): Promise<Content[]> {
  const manual = { version: executable.version, date: date.toISOString().slice(0, 10) };
  const doc = '/usr/share/doc/presync';
  const text = (path: string, content: string | Uint8Array): Content => ({ path, mode: FILE, content });
  const copy = (path: string, file: string): Content => ({ path, mode: FILE, content: { file } });
  return [
    { path: '/usr/bin/presync', mode: PROGRAM, content: { file: executable.path } },
    text('/etc/presync/presync.yaml', sampleConfig()),
    ...['presync-snapshotter.service', 'presync-bootstrap.service'].map((unit) =>
      copy(`/lib/systemd/system/${unit}`, join(UNITS, unit)),
    ),
    copy('/usr/share/presync/node-gate.conf', join(UNITS, 'node-gate.conf')),
    copy('/usr/lib/sysusers.d/presync.conf', join(UNITS, 'presync.sysusers')),
    copy('/usr/lib/tmpfiles.d/presync.conf', join(UNITS, 'presync.tmpfiles')),
    text('/usr/share/man/man1/presync.1.gz', gzip(commandManual(manual))),
    text('/usr/share/man/man5/presync.yaml.5.gz', gzip(configManual(manual))),
    text('/usr/share/bash-completion/completions/presync', bashCompletion()),
    text('/usr/share/zsh/vendor-completions/_presync', zshCompletion()),
    text('/usr/share/fish/vendor_completions.d/presync.fish', fishCompletion()),
    text(`${doc}/changelog.gz`, gzip(changelog)),
    copy(`${doc}/copyright`, join(DEBIAN, 'copyright')),
    text(`${doc}/third-parties.gz`, gzip(await thirdParties(ROOT, executable.inputs))),
    copy('/usr/share/lintian/overrides/presync', join(DEBIAN, 'lintian-overrides')),
  ];
}

async function putControl(
  tree: string,
  {
    version,
    architecture,
    contents,
  }: { version: string; architecture: string; contents: readonly Content[] },
): Promise<void> {
  const sums: string[] = [];
  let kibibytes = 0;
  for (const { path } of contents.toSorted((a, b) => (a.path < b.path ? -1 : 1))) {
    const bytes = await readFile(join(tree, path));
    kibibytes += Math.ceil(bytes.length / 1024);
    sums.push(`${createHash('md5').update(bytes).digest('hex')}  ${path.slice(1)}\n`);
  }
  const control = (await readFile(join(DEBIAN, 'control'), 'utf8'))
    .replace('@VERSION@', version)
    .replace('@ARCHITECTURE@', architecture)
    .replace('@INSTALLED_SIZE@', String(kibibytes));
  const conffiles = contents.filter(({ path }) => path.startsWith('/etc/')).map(({ path }) => `${path}\n`);
  await put(tree, { path: '/DEBIAN/control', mode: FILE, content: control });
  await put(tree, { path: '/DEBIAN/conffiles', mode: FILE, content: conffiles.join('') });
  await put(tree, { path: '/DEBIAN/md5sums', mode: FILE, content: sums.join('') });
  for (const script of ['postinst', 'prerm', 'postrm'])
    await put(tree, { path: `/DEBIAN/${script}`, mode: PROGRAM, content: { file: join(DEBIAN, script) } });
}

async function put(tree: string, { path, mode, content }: Content): Promise<void> {
  const target = join(tree, path);
  await mkdir(dirname(target), { recursive: true });
  if (typeof content === 'object' && 'file' in content) await copyFile(content.file, target);
  else await writeFile(target, content);
  await chmod(target, mode);
}

/** Sets the time of everything, and the mode of folders, which whoever builds may have restricted. */
async function setTimes(tree: string, epoch: number): Promise<void> {
  const names = await readdir(tree, { recursive: true, withFileTypes: true });
  for (const entry of names) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) await chmod(path, FOLDER);
    await lutimes(path, epoch, epoch);
  }
  await chmod(tree, FOLDER);
  await lutimes(tree, epoch, epoch);
}

/** Without a name and a time in its header, as zlib writes it. */
function gzip(text: string): Uint8Array {
  return gzipSync(text, { level: 9 });
}

/** Version and date of the first entry of a Debian changelog. */
function newestEntry(changelog: string): { version: string; date: Date } {
  const version = /^presync \(([^)]+)\)/.exec(changelog)?.[1];
  const date = new Date(/^ -- .*? {2}(.+)$/m.exec(changelog)?.[1] ?? '');
  if (version === undefined || Number.isNaN(date.getTime()))
    throw new Error(`${relative(ROOT, join(DEBIAN, 'changelog'))} has no entry with a version and a date`);
  return { version, date };
}
