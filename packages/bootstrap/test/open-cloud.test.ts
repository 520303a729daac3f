import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { openCloud } from '@presync/bootstrap/open-cloud';
import { startAzureMetadata } from '../../../test/support/azure-metadata-stand-in.ts';
import { startConnectProxy } from '../../../test/support/connect-proxy.ts';
import { findEc2MetadataMock, startEc2MetadataMock } from '../../../test/support/ec2-metadata-mock.ts';
import { startGcpMetadata } from '../../../test/support/gcp-metadata-stand-in.ts';
import { needs } from '../../../test/support/needs.ts';
import { freePort } from '../../../test/support/ports.ts';
import { failure, recordingLog } from './cloud-support.ts';

const signal = AbortSignal.timeout(120_000);
const PROGRAM = join(import.meta.dirname, 'programs/which-cloud.ts');

for (const [name, start, skip] of [
  ['aws', () => startEc2MetadataMock([]), needs('ec2-metadata-mock', findEc2MetadataMock() !== undefined)],
  ['azure', startAzureMetadata, {}],
  ['gcp', startGcpMetadata, {}],
] as const) {
  test(`finds ${name} by itself`, skip, async () => {
    const server = await start();
    const { log, said } = recordingLog();
    try {
      const cloud = await openCloud('auto', { log, metadata: server.base, signal });
      assert.equal(cloud?.name, name);
      assert.deepEqual(said, ['info cloud.found']);
      cloud?.close();
    } finally {
      await server.stop();
    }
  });

  test(`never asks ${name} through a proxy`, skip, async () => {
    const server = await start();
    const proxy = await startConnectProxy(() => Number(new URL(server.base).port));
    try {
      const through = `http://${proxy.host}`;
      const { stdout } = await promisify(execFile)(process.execPath, [PROGRAM, server.base], {
        env: {
          PATH: process.env.PATH ?? '',
          NODE_USE_ENV_PROXY: '1',
          HTTP_PROXY: through,
          http_proxy: through,
          HTTPS_PROXY: through,
          ALL_PROXY: through,
        },
      });
      assert.equal(JSON.parse(stdout).cloud, name);
      assert.deepEqual(proxy.asked, []);
    } finally {
      await proxy.stop();
      await server.stop();
    }
  });
}

test('finds out within two seconds that nobody answers', async () => {
  // Takes connections, and says nothing.
  const silent = createServer((socket) => void socket.resume());
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const address = silent.address();
  assert.ok(address !== null && typeof address === 'object');
  const { log, said } = recordingLog();
  try {
    for (const port of [address.port, await freePort()]) {
      const started = performance.now();
      const cloud = await openCloud('auto', { log, metadata: `http://127.0.0.1:${port}`, signal });
      assert.equal(cloud, undefined);
      assert.ok(performance.now() - started < 2000);
    }
    assert.deepEqual(said, ['info cloud.none', 'info cloud.none']);
  } finally {
    await new Promise((resolve) => silent.close(resolve));
  }
});

test('does not look for a cloud that is named, nor for none', async () => {
  const { log, said } = recordingLog();
  const metadata = `http://127.0.0.1:${await freePort()}`;
  assert.equal(await openCloud('none', { log, metadata, signal }), undefined);
  const cloud = await openCloud('gcp', { log, metadata, signal });
  assert.equal(cloud?.name, 'gcp');
  assert.deepEqual(said, []);
  assert.equal((await failure(cloud?.instance(signal) ?? Promise.resolve())).code, 'CLOUD_UNREACHABLE');
  cloud?.close();
});

test('stops looking when it is told to', async () => {
  const { log } = recordingLog();
  const stopped = AbortSignal.abort();
  assert.equal((await failure(openCloud('auto', { log, signal: stopped }))).code, 'ABORTED');
});
