/** What systemd is told, received by a real datagram socket. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { hasNotify, openNotifySocket } from '../../../test/support/notify-socket.ts';
import { createServiceNotify, reloading } from '../src/service-notify.ts';
import { scratch } from './support.ts';

test(
  'systemd hears what is sent, in its order',
  needs('systemd-notify and python3', hasNotify()),
  async (t) => {
    const path = join(await scratch(t), 'notify');
    const { said, has } = await openNotifySocket(t, path);
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
    await has(3);
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
