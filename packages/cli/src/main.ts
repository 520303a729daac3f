import { readFileSync } from 'node:fs';
import { getAsset, isSea } from 'node:sea';
import { type ProgramSettings, runProgram } from '@presync/runtime/lifecycle';
import { SUPERVISE_PROOF } from '@presync/snapshotter/proof-messages';

/** The version in this package's own description, of which the single executable holds a copy. */
function packageVersion(): string {
  const description = isSea()
    ? getAsset('package.json', 'utf8')
    : readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  const { version }: { version: string } = JSON.parse(description);
  return version;
}

async function main(
  argv: readonly string[],
  signal: AbortSignal,
  settings: ProgramSettings,
): Promise<number> {
  const version = packageVersion();
  if (argv.length === 1 && (argv[0] === '--version' || argv[0] === '-V')) {
    // Spares the time to load everything else.
    process.stdout.write(`${version}\n`);
    return 0;
  }
  const { readCommandLine } = await import('./program.ts');
  const invocation = readCommandLine(argv, { version, writeOut: (text) => process.stdout.write(text) });
  if (invocation === undefined) return 0;
  const { runCommand } = await import('./run-command.ts');
  return runCommand(invocation.command, invocation, { version, signal, settings });
}

// The C library has read what the launcher set for it; the processes that presync starts are not to have it.
if (process.env.PRESYNC_TUNED !== undefined) {
  delete process.env.PRESYNC_TUNED;
  delete process.env.GLIBC_TUNABLES;
}

const argv = process.argv.slice(2);

/** What a proof starts, inside its isolation; else the program. Each ends the process itself. */
async function start(): Promise<void> {
  if (argv[0] === SUPERVISE_PROOF) {
    const { superviseProof } = await import('@presync/snapshotter/supervise-proof');
    return superviseProof(argv[1] ?? '');
  }
  const ownArgv = argv.slice(0, argv.includes('--') ? argv.indexOf('--') : argv.length);
  return runProgram({
    name: 'presync',
    // Until the configuration is read, the command line alone tells how errors are wanted.
    json: ownArgv.includes('--json'),
    verbose: ownArgv.includes('--verbose'),
    run: (signal, settings) => main(argv, signal, settings),
  });
}

// Nothing waits for it here, so that the module can also be bundled as a script.
void start();
