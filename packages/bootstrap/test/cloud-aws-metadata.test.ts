/** EC2's metadata, as AWS's own mock of it tells it to sessions of version 2. */
import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import { describe, test } from 'node:test';
import {
  findEc2MetadataMock,
  MOCK_INSTANCE,
  startEc2MetadataMock,
} from '../../../test/support/ec2-metadata-mock.ts';
import { needs } from '../../../test/support/needs.ts';
import { eventually, failure, listen, openAt } from './cloud-support.ts';

const signal = AbortSignal.timeout(300_000);
const needsMock = needs('ec2-metadata-mock', findEc2MetadataMock() !== undefined);
/** An instance to which nothing happens. */
const QUIET = [
  '--mock-delay-sec',
  '9999',
  '--rebalance-delay-sec',
  '9999',
  '--asg-termination-delay-sec',
  '9999',
];

describe("EC2's metadata", { concurrency: 3 }, () => {
  test('tells who the instance is, to who has a token', needsMock, async () => {
    const mock = await startEc2MetadataMock(QUIET);
    try {
      assert.equal((await fetch(`${mock.base}/latest/dynamic/instance-identity/document`)).status, 401);
      const { cloud } = await openAt('aws', mock.base);
      assert.deepEqual(await cloud.instance(signal), {
        cloud: 'aws',
        ...MOCK_INSTANCE,
        name: undefined,
        group: undefined,
      });
      cloud.close();
    } finally {
      await mock.stop();
    }
  });

  test('announces an interruption, a rebalance and a scale-in, once each', needsMock, async () => {
    const mock = await startEc2MetadataMock([
      ...['--mock-delay-sec', '9999', '--rebalance-delay-sec', '2', '--asg-termination-delay-sec', '9'],
    ]);
    const { cloud, recorded, registry } = await openAt('aws', mock.base);
    const heard = listen(cloud);
    try {
      const rebalance = await heard.until(({ kind }) => kind === 'rebalance');
      assert.deepEqual([rebalance.effect, rebalance.state, rebalance.deadline], ['none', 'ahead', undefined]);
      assert.deepEqual(
        heard.notices.map(({ kind }) => kind),
        ['rebalance'],
      );
      const scaleIn = await heard.until(({ kind }) => kind === 'scale-in');
      assert.deepEqual([scaleIn.effect, scaleIn.state], ['ends', 'ahead']);
      assert.match(scaleIn.detail, /Terminated/);

      // The same address, with an instance to which something else happens; it knows no token of before.
      await mock.stop();
      await eventually(() => recorded.count('warn cloud.metadata_failed') === 4, 'each path failed');
      const time = new Date(Math.ceil(Date.now() / 1000) * 1000 + 120_000);
      await mock.start([
        'spot',
        '--action',
        'terminate',
        '--time',
        time.toISOString().replace('.000', ''),
        ...QUIET.slice(2),
        '--mock-delay-sec',
        '0',
      ]);
      const spot = await heard.until(({ kind }) => kind === 'preemption');
      assert.deepEqual([spot.effect, spot.state, spot.deadline], ['ends', 'ahead', time]);
      for (const was of ['rebalance', 'scale-in'])
        await heard.until(({ kind, state }) => kind === was && state === 'over');
      await eventually(() => recorded.count('info cloud.metadata_back') >= 2, 'the paths are back');
      assert.equal(
        recorded.count('warn cloud.metadata_failed'),
        4,
        'a path that goes on failing was told twice',
      );
      assert.equal(
        heard.notices.filter(({ kind, state }) => kind === 'preemption' && state !== 'over').length,
        1,
      );
      const text = await registry.metrics();
      assert.match(text, /presync_cloud_notices_total\{kind="preemption"\} 1\n/);
      assert.ok(
        text.includes(
          `presync_cloud_notice_deadline_timestamp_seconds{kind="preemption"} ${time.getTime() / 1000}\n`,
        ),
      );
    } finally {
      await heard.stop();
      cloud.close();
      await mock.stop();
    }
  });

  for (const [code, effect] of [
    ['system-reboot', 'restarts'],
    ['instance-retirement', 'ends'],
    ['system-maintenance', 'pauses'],
  ] as const) {
    test(`announces ${code}`, needsMock, async () => {
      const time = new Date(Math.ceil(Date.now() / 1000) * 1000 + 3_600_000);
      const mock = await startEc2MetadataMock([
        ...[
          'events',
          '--code',
          code,
          '--not-before',
          time.toISOString().replace('.000', ''),
          ...QUIET.slice(2),
        ],
      ]);
      const { cloud } = await openAt('aws', mock.base);
      const heard = listen(cloud);
      try {
        const notice = await heard.until(({ kind }) => kind === 'maintenance');
        assert.deepEqual([notice.effect, notice.state, notice.deadline], [effect, 'ahead', time]);
        assert.equal(notice.id, 'instance-event-1234567890abcdef0');
      } finally {
        await heard.stop();
        cloud.close();
        await mock.stop();
      }
    });
  }

  test('has events that are called off, which are none', needsMock, async () => {
    const mock = await startEc2MetadataMock([
      'events',
      '--state',
      'canceled',
      '--code',
      'instance-stop',
      ...QUIET.slice(2),
    ]);
    const { cloud, recorded } = await openAt('aws', mock.base);
    const heard = listen(cloud);
    try {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      assert.deepEqual(heard.notices, []);
      assert.equal(recorded.count('warn cloud.metadata_failed'), 0);
    } finally {
      await heard.stop();
      cloud.close();
      await mock.stop();
    }
  });
});

/** What AWS's mock does not show: other answers, and none. */
describe("EC2's metadata at its worst", () => {
  let tokens = 0;

  async function serve(
    answer: (path: string, token: string) => [number, string] | undefined,
  ): Promise<{ base: string; stop(): Promise<void> }> {
    tokens = 0;
    const server: Server = createServer((request, response) => {
      const path = request.url ?? '';
      if (request.method === 'PUT' && path === '/latest/api/token') {
        const ttl = Number(request.headers['x-aws-ec2-metadata-token-ttl-seconds']);
        const verdict = answer(path, '');
        if (verdict === undefined) return;
        const ok = verdict[0] === 200 && ttl >= 1 && ttl <= 21_600;
        response.writeHead(ok ? 200 : verdict[0] === 200 ? 400 : verdict[0], {
          'x-aws-ec2-metadata-token-ttl-seconds': String(ttl),
        });
        response.end(ok ? `token-${++tokens}` : '');
        return;
      }
      const token = String(request.headers['x-aws-ec2-metadata-token'] ?? '');
      const verdict = token === '' ? ([401, ''] as const) : answer(path, token);
      if (verdict !== undefined) response.writeHead(verdict[0]).end(verdict[1]);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    return {
      base: `http://127.0.0.1:${address.port}`,
      async stop() {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      },
    };
  }

  const DOCUMENT = JSON.stringify({
    instanceId: MOCK_INSTANCE.id,
    region: MOCK_INSTANCE.region,
    availabilityZone: MOCK_INSTANCE.zone,
  });

  test('a token that is refused is replaced once, and a tag tells the group', async () => {
    const server = await serve((path, token) => {
      if (path === '/latest/api/token') return [200, ''];
      if (token === 'token-1') return [401, ''];
      if (path.endsWith('/document')) return [200, DOCUMENT];
      return path.endsWith('/aws:autoscaling:groupName') ? [200, 'sentries'] : [404, ''];
    });
    try {
      const { cloud } = await openAt('aws', server.base);
      assert.equal((await cloud.instance(signal)).group, 'sentries');
      assert.equal((await cloud.instance(signal)).id, MOCK_INSTANCE.id);
      assert.equal(tokens, 2);
      cloud.close();
    } finally {
      await server.stop();
    }
  });

  for (const [what, answer, code, hint] of [
    ['an answer that does not come over the hops', () => undefined, 'CLOUD_UNREACHABLE', /hop limit .* 2/],
    [
      'a service that is switched off',
      () => [403, ''] as [number, string],
      'CLOUD_FORBIDDEN',
      /http-endpoint enabled/,
    ],
    ['something that is not EC2', () => [405, ''] as [number, string], 'CLOUD_FAILED', /--cloud/],
  ] as const) {
    test(`${what} is told with what to do`, async () => {
      const server = await serve(answer);
      try {
        const { cloud } = await openAt('aws', server.base);
        const error = await failure(cloud.instance(signal));
        assert.equal(error.code, code);
        assert.match(error.hint ?? '', hint);
        assert.equal(error.retryable, true);
        cloud.close();
      } finally {
        await server.stop();
      }
    });
  }

  test('a cloud that only resembles EC2 is not taken for it', async () => {
    const server = await serve((path) =>
      path.endsWith('/document') ? [200, '{"instanceId":"7"}'] : [200, ''],
    );
    try {
      const { cloud } = await openAt('aws', server.base);
      assert.equal((await failure(cloud.instance(signal))).code, 'CLOUD_FAILED');
      cloud.close();
    } finally {
      await server.stop();
    }
  });

  test('only an instance that has served is taken out when its target is a warm pool', async () => {
    let target = 'Warmed:Stopped';
    const server = await serve((path) =>
      path === '/latest/api/token'
        ? [200, '']
        : path.endsWith('/target-lifecycle-state')
          ? [200, target]
          : [404, ''],
    );
    const { cloud } = await openAt('aws', server.base);
    const heard = listen(cloud);
    try {
      await new Promise((resolve) => setTimeout(resolve, 1500));
      assert.deepEqual(heard.notices, []);
      target = 'InService';
      await new Promise((resolve) => setTimeout(resolve, 6000));
      target = 'Warmed:Stopped';
      const notice = await heard.until(() => true);
      assert.deepEqual([notice.kind, notice.effect], ['scale-in', 'restarts']);
    } finally {
      await heard.stop();
      cloud.close();
      await server.stop();
    }
  });
});
