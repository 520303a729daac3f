/** The single executable: Node with presync's code in it. */
import { execFile } from 'node:child_process';
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { type BuildOptions, build } from 'esbuild';
import { NODE_FLAGS } from '../../../packages/cli/bin/tuning.mjs';
import { TEXT_ASSETS } from '../../../packages/cli/src/lib/assets.ts';

const ROOT = resolve(import.meta.dirname, '../../..');
const CLI = join(ROOT, 'packages/cli');

/** One script that needs nothing but what Node brings. Names stay, so that stack traces can be read. */
const COMMON: BuildOptions = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node26',
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  // A script has no place of its own that `import.meta` could tell, and may import only what it can require.
  define: { 'import.meta.url': 'executableUrl' },
  supported: { 'dynamic-import': false },
  logLevel: 'warning',
};

const EXECUTABLE_URL = `const executableUrl=require('node:url').pathToFileURL(process.execPath).href;`;

/** What the executable's code asks for by name. */
const ASSETS = ['package.json', 'program.cjs', 'chunk-worker.cjs', ...TEXT_ASSETS];

/** Bundles one entry, and gives the files that are in it, relative to the repository. */
async function bundle(options: BuildOptions & { outfile: string }): Promise<string[]> {
  const { metafile } = await build({ ...COMMON, ...options, metafile: true });
  return Object.keys(metafile.inputs);
}

export interface BuiltExecutable {
  path: string;
  version: string;
  /** The files that are in it, relative to the repository. */
  inputs: readonly string[];
}

/**
 * Builds the executable for the platform that this runs on, at that path. The same sources and the same Node give the
 * same bytes.
 */
export async function buildExecutable(output: string): Promise<BuiltExecutable> {
  const path = resolve(output);
  await mkdir(dirname(path), { recursive: true });
  const work = await mkdtemp(`${path}.build-`);
  try {
    const inputs = await Promise.all([
      bundle({ entryPoints: [join(CLI, 'bin/executable.cjs')], outfile: join(work, 'entry.cjs') }),
      bundle({
        entryPoints: [join(CLI, 'src/main.ts')],
        outfile: join(work, 'program.cjs'),
        // A function, so that the entry can hand over Node's `require`.
        banner: { js: `(function(require){${EXECUTABLE_URL}` },
        footer: { js: '})' },
      }),
      bundle({
        entryPoints: [join(ROOT, 'packages/transfer/src/lib/chunk-worker.ts')],
        outfile: join(work, 'chunk-worker.cjs'),
        banner: { js: EXECUTABLE_URL },
      }),
    ]);
    const description = join(CLI, 'package.json');
    await copyFile(description, join(work, 'package.json'));
    for (const asset of TEXT_ASSETS) await cp(join(ROOT, asset), join(work, asset));
    const config = join(work, 'sea.json');
    const built = join(work, 'presync');
    await writeFile(
      config,
      // Paths relative to this folder, because the executable keeps them and shall not depend on where it was built.
      JSON.stringify({
        main: 'entry.cjs',
        output: 'presync',
        disableExperimentalSEAWarning: true,
        execArgv: NODE_FLAGS,
        assets: Object.fromEntries(ASSETS.map((name) => [name, name])),
      }),
    );
    await promisify(execFile)(process.execPath, ['--build-sea', config], { cwd: work });
    await chmod(built, 0o755);
    await rename(built, path);
    const { version }: { version: string } = JSON.parse(await readFile(description, 'utf8'));
    return { path, version, inputs: [...new Set(inputs.flat())].toSorted() };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
