import { performance } from 'node:perf_hooks';
import { cpuSecondsOf, run } from './measure.ts';
import { S3_ACCESS_KEY, S3_BUCKET, S3_SECRET_KEY, type S3Server } from './s3-server.ts';
import { startThrottleProcess } from './throttle-process.ts';

/** What the arrangement itself can carry: nothing that is measured through it can be faster. */
export interface Ceiling {
  what: string;
  connections: number;
  /** Bytes a second over all connections. */
  bytesPerSecond: number;
  /** CPU seconds of the proxy for each GB; 0 without a proxy. */
  proxySecondsPerGb: number;
  /** CPU seconds of the store's server for each GB. */
  serverSecondsPerGb: number;
}

/** curl's options for a signed request to the bench server. */
export const CURL_SIGNED = [
  '--aws-sigv4',
  'aws:amz:us-east-1:s3',
  '--user',
  `${S3_ACCESS_KEY}:${S3_SECRET_KEY}`,
  '-H',
  'x-amz-content-sha256: UNSIGNED-PAYLOAD',
];

export interface CeilingOptions {
  server: S3Server;
  /** A file of the size to fetch with each connection. */
  file: string;
  fileBytes: number;
  bytesPerSecond: number;
  firstByteMs: number;
  signal: AbortSignal;
}

/** Measures downloads with curl: straight from the server, through an unlimited proxy, and through the limited one. */
export async function measureCeilings(options: CeilingOptions): Promise<Ceiling[]> {
  const { server, signal } = options;
  const key = `${S3_BUCKET}/ceiling`;
  await run('curl', ['-sSf', ...CURL_SIGNED, '-T', options.file, `${server.endpoint}/${key}`], signal);
  const ceilings: Ceiling[] = [];
  const fetchAll = async (
    what: string,
    endpoint: string,
    connections: number,
    proxyPid?: number,
  ): Promise<void> => {
    const serverBefore = cpuSecondsOf(server.pid);
    const proxyBefore = proxyPid === undefined ? 0 : cpuSecondsOf(proxyPid);
    const start = performance.now();
    await Promise.all(
      Array.from({ length: connections }, () =>
        run('curl', ['-sSf', ...CURL_SIGNED, '-o', '/dev/null', `${endpoint}/${key}`], signal),
      ),
    );
    const seconds = (performance.now() - start) / 1000;
    const bytes = connections * options.fileBytes;
    const proxy = proxyPid === undefined ? 0 : cpuSecondsOf(proxyPid) - proxyBefore;
    ceilings.push({
      what,
      connections,
      bytesPerSecond: bytes / seconds,
      proxySecondsPerGb: (proxy / bytes) * 1e9,
      serverSecondsPerGb: ((cpuSecondsOf(server.pid) - serverBefore) / bytes) * 1e9,
    });
  };
  for (const connections of [1, 16]) await fetchAll('no proxy', server.endpoint, connections);
  const variants = [
    { what: 'proxy without limits', bytesPerSecond: Number.POSITIVE_INFINITY, firstByteMs: 0 },
    { what: 'proxy with limits', bytesPerSecond: options.bytesPerSecond, firstByteMs: options.firstByteMs },
  ];
  for (const variant of variants) {
    const proxy = await startThrottleProcess({ upstreamPort: server.port, ...variant });
    try {
      for (const connections of [1, 4, 16])
        await fetchAll(variant.what, `http://127.0.0.1:${proxy.port}`, connections, proxy.pid);
    } finally {
      await proxy.close();
    }
  }
  return ceilings;
}
