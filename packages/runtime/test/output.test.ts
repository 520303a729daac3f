import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { PresyncError } from '../src/errors.ts';
import { startAdminServer } from '../src/http.ts';
import { createLogger, type Logger, type LoggerOptions } from '../src/log.ts';
import { createMetrics, createRegistry } from '../src/metrics.ts';
import { createProgress } from '../src/progress.ts';
import { redactText, redactValue } from '../src/redact.ts';
import { createStatusLine } from '../src/status-line.ts';
import { NEVER } from './support.ts';

async function capture(
  options: Partial<LoggerOptions>,
  use: (log: Logger) => void,
): Promise<{ text: string; records: Record<string, unknown>[] }> {
  let text = '';
  const output = {
    print(line: string): void {
      text += line;
    },
  };
  use(await createLogger({ name: 'presync', output, pretty: false, ...options }));
  const records =
    options.pretty === true
      ? []
      : text
          .split('\n')
          .filter(Boolean)
          .map((line) => JSON.parse(line));
  return { text, records };
}

test('a log record has level, time, event and message, and its fields', async () => {
  const { records } = await capture({}, (log) => {
    log.child({ channel: 'c' }).info('snapshot.published', '100% of it %s', { sequence: 3 });
  });
  const [record] = records;
  assert.equal(record?.level, 'info');
  assert.equal(record?.event, 'snapshot.published');
  assert.equal(record?.msg, '100% of it %s');
  assert.equal(record?.sequence, 3);
  assert.equal(record?.channel, 'c');
  assert.match(String(record?.time), /^\d{4}-\d\d-\d\dT.*Z$/);
});

test('quiet keeps warnings, verbose adds details', async () => {
  const say = (log: Logger): void => {
    log.debug('run.done', 'debug');
    log.info('run.done', 'info');
    log.warn('run.done', 'warn');
  };
  assert.equal((await capture({ quiet: true }, say)).records.length, 1);
  assert.equal((await capture({}, say)).records.length, 2);
  assert.equal((await capture({ verbose: true }, say)).records.length, 3);
});

test('no credential reaches the log, in text, fields, nested fields or errors', async () => {
  const { text, records } = await capture({ verbose: true }, (log) => {
    log.error('run.failed', 'GET https://u:hunter2@h/?X-Amz-Signature=hunter2&a=1', {
      secretAccessKey: 'hunter2',
      nested: { list: [{ password: 'hunter2', url: 'http://u:hunter2@h/' }] },
      error: new PresyncError('STORE_FAILED', 'http://u:hunter2@h/', {
        cause: new Error('http://u:hunter2@h/'),
      }),
    });
    log.child({ token: 'hunter2' }).info('run.done', 'x');
  });
  assert.doesNotMatch(text, /hunter2/);
  assert.match(text, /a=1/);
  assert.equal((records[0]?.error as { code: string } | undefined)?.code, 'STORE_FAILED');
});

test('stacks are told of defects always, of PresyncErrors only when verbose', async () => {
  const say = (log: Logger): void => {
    log.error('run.done', 'x', { error: new PresyncError('LOCKED', 'x') });
    log.error('run.done', 'x', { error: new TypeError('x') });
  };
  const stacks = async (verbose: boolean): Promise<boolean[]> =>
    (await capture({ verbose }, say)).records.map((record) => 'stack' in (record.error as object));
  assert.deepEqual(await stacks(false), [false, true]);
  assert.deepEqual(await stacks(true), [true, true]);
});

test('lines for people, with and without colour', async () => {
  const say = (log: Logger): void => log.warn('run.done', 'mind the gap', { peers: 0 });
  const plain = (await capture({ pretty: true, color: false }, say)).text;
  assert.match(plain, /WARN.*mind the gap/);
  assert.ok(!plain.includes('\u001B'));
  assert.ok((await capture({ pretty: true, color: true }, say)).text.includes('\u001B'));
});

test('cycles and huge objects cannot stop the log', () => {
  const cycle: Record<string, unknown> = { bytes: new Uint8Array(9) };
  cycle.self = cycle;
  assert.match(JSON.stringify(redactValue(cycle)), /\[9 bytes\].*\[…\]/);
});

test('redaction leaves what is no secret', () => {
  const text = 's3://bucket/prefix?region=eu&endpoint=http://127.0.0.1:9000 mail@example.org';
  assert.equal(redactText(text), text);
});

test('a bar shows share, bytes, rate and time left, and log lines pass above it', async () => {
  let screen = '';
  const statusLine = createStatusLine({
    write(text) {
      screen += text;
    },
    isTTY: true,
    columns: 200,
  });
  const log = await createLogger({ name: 'x', output: statusLine, pretty: false });
  let clock = 0;
  const progress = createProgress({ form: 'bar', statusLine, log, now: () => clock });
  progress.start({ label: 'restore', total: 4 * 1024 ** 2 });
  assert.match(screen, /0% restore: 0 B of 4 MiB/);
  clock = 1000;
  progress.advance(1024 ** 2);
  while (!screen.includes('25%')) await delay(20);
  assert.match(screen, /\[#{5}\.{15}\] +25% restore: 1 MiB of 4 MiB, 1 MiB\/s, 3 s left/);
  log.warn('run.done', 'above');
  assert.match(screen.slice(screen.indexOf('"above"')), /\n\[#{5}/);
  progress.finish();
  assert.match(screen, /"event":"progress.finished"/);
  assert.ok(!/\[#+[^\n]*$/.test(screen.slice(screen.lastIndexOf('\u001B[2K'))));
});

test('where there is no terminal, a line is logged now and then, and none when quiet', async () => {
  const lines: string[] = [];
  const statusLine = createStatusLine({ write: (text) => void lines.push(String(text)) });
  const log = await createLogger({ name: 'x', output: statusLine, pretty: false });
  const progress = createProgress({ form: 'lines', statusLine, log, lineEveryMs: 20 });
  progress.start({ label: 'upload' });
  progress.advance(5);
  progress.note('chunk 1');
  while (lines.length < 2) await delay(10);
  assert.match(lines[0] ?? '', /"event":"progress.advanced".*upload: 5 B.*chunk 1/);
  progress.finish();

  lines.length = 0;
  const quiet = createProgress({ form: 'none', statusLine, log, lineEveryMs: 1 });
  quiet.start({ label: 'upload' });
  quiet.advance(5);
  await delay(30);
  quiet.finish();
  assert.deepEqual(lines, []);
});

test('metrics have one name space, and the store sink counts calls and bytes', async () => {
  const register = createRegistry();
  const metrics = createMetrics(register);
  metrics.store.observe({ operation: 'read', outcome: 'ok', seconds: 0.1, bytes: 7 });
  metrics.store.observe({ operation: 'read', outcome: 'STORE_FAILED', seconds: 0.1, bytes: 0 });
  metrics.snapshot.runs.inc({ outcome: 'published' });
  const text = await register.metrics();
  assert.match(text, /presync_store_transferred_bytes_total\{operation="read"\} 7/);
  assert.match(text, /presync_store_call_seconds_count\{operation="read",outcome="STORE_FAILED"\} 1/);
  for (const { name } of await register.getMetricsAsJSON()) assert.match(name, /^presync_/);
  createMetrics(createRegistry());
});

test('the admin server answers on health, readiness and metrics, and ends with the signal', async () => {
  let ready = false;
  const controller = new AbortController();
  const register = createRegistry();
  const server = await startAdminServer({
    listen: { host: '127.0.0.1', port: 0 },
    health: () => ({ ok: true }),
    ready: async () => {
      if (!ready) throw new Error('still syncing');
      return { ok: true, detail: { head: 5 } };
    },
    metrics: register,
    signal: controller.signal,
  });
  assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  const before = await fetch(`${server.url}/readyz`);
  assert.equal(before.status, 503);
  assert.deepEqual(await before.json(), {
    ok: false,
    reason: 'still syncing',
    ApplicationHealthState: 'Unhealthy',
  });
  ready = true;
  const after = await fetch(`${server.url}/readyz`);
  assert.equal(after.status, 200);
  // Azure's extension takes these two words only, under that name.
  assert.deepEqual(await after.json(), { ok: true, head: 5, ApplicationHealthState: 'Healthy' });
  const metrics = await fetch(`${server.url}/metrics`);
  assert.match(metrics.headers.get('content-type') ?? '', /text\/plain/);
  assert.match(await metrics.text(), /presync_process_cpu_seconds_total/);
  assert.equal((await fetch(`${server.url}/other`)).status, 404);
  controller.abort();
  await server.close();
  await assert.rejects(fetch(`${server.url}/healthz`));
});

test('a readiness check that hangs is a no', async () => {
  const server = await startAdminServer({
    listen: { host: '127.0.0.1', port: 0 },
    health: () => ({ ok: true }),
    ready: () => new Promise(() => {}),
    metrics: createRegistry(),
    signal: NEVER,
  });
  assert.equal((await fetch(`${server.url}/readyz`)).status, 503);
  await server.close();
});

test('an address that is taken is told', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', () => resolve()));
  const { port } = other.address() as AddressInfo;
  await assert.rejects(
    startAdminServer({
      listen: { host: '127.0.0.1', port },
      health: () => ({ ok: true }),
      ready: () => ({ ok: true }),
      metrics: createRegistry(),
      signal: NEVER,
    }),
    { code: 'IO_FAILED', hint: /--admin-listen/ },
  );
  other.close();
});

test('in the journal each line begins with its priority, and verbosity may change while it runs', async () => {
  let text = '';
  const output = {
    print(line: string) {
      text += line;
    },
  };
  const log = await createLogger({ name: 'x', output, pretty: false, journal: true });
  const child = log.child({ run: 1 });
  child.debug('run.done', 'too much');
  child.info('run.done', 'info');
  log.warn('run.done', 'warn');
  child.error('run.done', 'error');
  log.setVerbosity({ verbose: true });
  child.debug('run.done', 'debug');
  log.setVerbosity({ quiet: true });
  child.info('run.done', 'no more');
  const lines = text.trimEnd().split('\n');
  assert.deepEqual(
    lines.map((line) => line.slice(0, 4)),
    ['<6>{', '<4>{', '<3>{', '<7>{'],
  );
  assert.deepEqual(
    lines.map((line) => JSON.parse(line.slice(3)).msg),
    ['info', 'warn', 'error', 'debug'],
  );
});
