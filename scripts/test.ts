// Runs the tests: `npm test`, `npm test -- packages/cli/test/exit-codes.test.ts`, `npm test -- --test-name-pattern=lock`.
// Campaigns and the demo are commands of their own.
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '..');
const PATTERNS = ['packages/*/test/**/*.test.ts', 'test/**/*.test.ts'];
const OWN_COMMANDS = ['test/campaigns/', 'test/demo/'];

/** Test files that run at a time: each may start servers and nodes of its own. */
const CONCURRENCY = 2;

const given = process.argv.slice(2);
const flags = given.filter((argument) => argument.startsWith('-'));
const named = given.filter((argument) => !argument.startsWith('-'));
const found = globSync(named.length > 0 ? named : PATTERNS, { cwd: ROOT, exclude: ['**/node_modules/**'] });
const files = found.filter((path) => named.length > 0 || !OWN_COMMANDS.some((dir) => path.startsWith(dir)));

if (files.length === 0) {
  process.stderr.write(`no test file matches ${(named.length > 0 ? named : PATTERNS).join(' ')}\n`);
  process.exit(1);
}

const scratch = await mkdtemp(join(tmpdir(), 'presync-test-run-'));
const skipList = join(scratch, 'skipped');
const code = await runTests();
const skipped = (await readFile(skipList, 'utf8')).split('\n').filter((line) => line !== '');
await rm(scratch, { recursive: true });

// The runner's own closing lines stay the last ones unless there is something to add.
if (code === 0 && skipped.length > 0 && process.env.PRESYNC_TEST_REQUIRE === 'all') {
  process.stderr.write(`PRESYNC_TEST_REQUIRE=all forbids to skip tests, and these were skipped:\n`);
  for (const line of skipped) process.stderr.write(`  ${line}\n`);
  process.exitCode = 1;
} else {
  process.exitCode = code;
}

function runTests(): Promise<number> {
  const child = spawn(
    process.execPath,
    [
      '--test',
      `--test-concurrency=${CONCURRENCY}`,
      '--test-reporter=spec',
      '--test-reporter-destination=stdout',
      `--test-reporter=${join(import.meta.dirname, 'lib/skip-reporter.ts')}`,
      `--test-reporter-destination=${skipList}`,
      ...flags,
      ...files.toSorted(),
    ],
    { cwd: ROOT, stdio: 'inherit' },
  );
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
}
