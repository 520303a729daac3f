import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { type Program, start } from './support.ts';

async function outcome(program: Program): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const { code } = await program.ended;
  return { code, stdout: program.stdout, stderr: program.stderr };
}

test('the exit code is what the program returns', async () => {
  assert.equal((await outcome(start('lifecycle.ts', ['number']))).code, 3);
  assert.equal((await outcome(start('lifecycle.ts', ['nothing']))).code, 0);
});

test('work that waits for nothing that keeps a process alive is waited for', async () => {
  assert.equal((await outcome(start('lifecycle.ts', ['idle']))).code, 3);
});

test('a PresyncError is told with hint and code, without credentials and without a stack', async () => {
  const { code, stdout, stderr } = await outcome(start('lifecycle.ts', ['known']));
  assert.equal(code, 3);
  assert.equal(stdout, '');
  assert.match(stderr, /^presync: the node syncs from https:\/\/\[hidden\]@example\.org\/$/m);
  assert.match(stderr, /^Try: wait until it has caught up$/m);
  assert.match(stderr, /^Code: GATE_SHUT \(exit code 3\)$/m);
  assert.doesNotMatch(stderr, /hunter2|at .*lifecycle\.ts|the cause/);
});

test('--verbose adds the stack and the causes', async () => {
  const { stderr } = await outcome(start('lifecycle.ts', ['known', '--verbose']));
  assert.match(stderr, /at .*lifecycle\.ts/);
  assert.match(stderr, /caused by Error: the cause/);
  assert.doesNotMatch(stderr, /hunter2/);
});

test('in JSON mode an error is the one document on stdout', async () => {
  const { code, stdout } = await outcome(start('lifecycle.ts', ['known', '--json']));
  assert.equal(code, 3);
  assert.deepEqual(JSON.parse(stdout), {
    error: {
      code: 'GATE_SHUT',
      message: 'the node syncs from https://[hidden]@example.org/',
      hint: 'wait until it has caught up',
      exitCode: 3,
    },
  });
});

test('anything else is a defect: INTERNAL, exit code 1, with its stack', async () => {
  const { code, stderr } = await outcome(start('lifecycle.ts', ['unknown']));
  assert.equal(code, 1);
  assert.match(stderr, /Code: INTERNAL/);
  assert.match(stderr, /TypeError: x is not a function\n\s+at /);
});

for (const [signal, expected] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test(`${signal} lets the program clean up, and the exit code is ${expected}`, async () => {
    const program = start('lifecycle.ts', ['drain']);
    await program.says('ready');
    program.child.kill(signal);
    const { code, stdout, stderr } = await outcome(program);
    assert.equal(code, expected);
    assert.match(stdout, /clean/);
    assert.doesNotMatch(stderr, /Code:/);
  });
}

test('the second signal ends the process at once', async () => {
  const program = start('lifecycle.ts', ['slow-drain']);
  await program.says('ready');
  program.child.kill('SIGTERM');
  while (!program.stderr.includes('cleaning up')) await once(program.child.stderr ?? process, 'data');
  program.child.kill('SIGINT');
  const { code, stdout } = await outcome(program);
  assert.equal(code, 130);
  assert.doesNotMatch(stdout, /clean/);
});

test('a clean-up that fails is told, whatever the signal', async () => {
  const program = start('lifecycle.ts', ['bad-drain']);
  await program.says('ready');
  program.child.kill('SIGTERM');
  const { code, stderr } = await outcome(program);
  assert.equal(code, 8);
  assert.match(stderr, /Code: NODE_RESUME_FAILED/);
});

for (const mode of ['rejection', 'exception']) {
  test(`an ${mode} that nobody caught lets the program clean up, and is a defect`, async () => {
    const { code, stdout, stderr } = await outcome(start('lifecycle.ts', [mode]));
    assert.equal(code, 1);
    assert.match(stdout, /clean/);
    assert.match(stderr, /Code: INTERNAL/);
    assert.match(stderr, /RangeError: nobody caught this/);
  });
}

test('a reader that closes stdout does not stop the work', async () => {
  const child = spawn(
    'bash',
    [
      '-c',
      'set -o pipefail; "$0" "$1" flood | head -c 10',
      process.execPath,
      `${import.meta.dirname}/programs/lifecycle.ts`,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const [code] = await once(child, 'close');
  assert.equal(stderr, 'done\n');
  assert.equal(code, 0);
});

test('the death of the launcher counts as SIGTERM', async () => {
  const program = start('lifecycle.ts', ['drain'], { ipc: true, env: { PRESYNC_LAUNCHED: '1' } });
  await program.says('ready');
  program.child.disconnect();
  const { code, stdout } = await outcome(program);
  assert.equal(code, 143);
  assert.match(stdout, /clean/);
});

test('a launcher that lives does not keep the program alive', async () => {
  const { code } = await outcome(
    start('lifecycle.ts', ['number'], { ipc: true, env: { PRESYNC_LAUNCHED: '1' } }),
  );
  assert.equal(code, 3);
});
