/** What systemd is told, received by a real datagram socket. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { createServiceNotify, reloading } from '../src/service-notify.ts';
import { scratch } from './support.ts';

const has = (command: string): boolean =>
  spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined;

/** Prints each datagram as one line of JSON. */
const RECEIVER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('"bound"', flush=True)
while True:
    print(json.dumps(s.recv(4096).decode()), flush=True)
`;

async function receiver(
  t: { after(fn: () => void): void },
  path: string,
): Promise<{ said: string[]; child: ChildProcess }> {
  const child = spawn('python3', ['-c', RECEIVER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => void child.kill('SIGKILL'));
  const said: string[] = [];
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    // systemd-notify adds one, to learn when systemd has read the others.
    said.push(...lines.map((line) => String(JSON.parse(line))).filter((line) => line !== 'BARRIER=1'));
  });
  while (!said.includes('bound')) await once(child.stdout, 'data');
  said.shift();
  return { said, child };
}

test(
  'systemd hears what is sent, in its order',
  needs('systemd-notify and python3', has('systemd-notify') && has('python3')),
  async (t) => {
    const path = join(await scratch(t), 'notify');
    const { said, child } = await receiver(t, path);
    const problems: string[] = [];
    const notify = createServiceNotify({
      environment: {
        ...process.env,
        NOTIFY_SOCKET: path,
        WATCHDOG_USEC: '30000000',
        WATCHDOG_PID: String(process.pid),
      },
      onProblem: (reason) => problems.push(reason),
    });
    assert.equal(notify.watchdogMs, 30_000);
    void notify.send('READY=1', 'STATUS=waiting for 3:00');
    void notify.send(...reloading());
    await notify.send('WATCHDOG=1');
    while (said.length < 3 && child.stdout !== null) await once(child.stdout, 'data');
    assert.deepEqual(problems, []);
    assert.match(said[0] ?? '', /^READY=1\nSTATUS=waiting for 3:00$/m);
    assert.match(said[1] ?? '', /^RELOADING=1\nMONOTONIC_USEC=\d+/);
    assert.match(said[2] ?? '', /^WATCHDOG=1/);
  },
);

test('a systemd that is not there is told of once', async () => {
  const problems: string[] = [];
  const notify = createServiceNotify({
    environment: { PATH: '/nonexistent', NOTIFY_SOCKET: '/nonexistent/notify' },
    onProblem: (reason) => problems.push(reason),
  });
  await notify.send('READY=1');
  await notify.send('WATCHDOG=1');
  assert.equal(problems.length, 1);
});

test('outside of systemd nothing is started, and the watchdog of another process is none', async () => {
  const fail = (reason: string): void => assert.fail(reason);
  const none = createServiceNotify({ environment: { PATH: '/nonexistent' }, onProblem: fail });
  await none.send('READY=1');
  assert.equal(none.watchdogMs, undefined);
  const others = { NOTIFY_SOCKET: '/x', WATCHDOG_USEC: '1000000', WATCHDOG_PID: '1' };
  assert.equal(createServiceNotify({ environment: others, onProblem: fail }).watchdogMs, undefined);
});
