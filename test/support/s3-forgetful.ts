/**
 * An HTTP proxy in front of a real S3 server that drops the conditions of writes, as servers that do not know them do. It signs each
 * request anew (AWS Signature Version 4), since the conditions are part of what the client signed.
 */
import { createHash, createHmac } from 'node:crypto';
import { createServer, type IncomingHttpHeaders, request } from 'node:http';
import type { S3Server } from './s3-server.ts';

const REGION = 'us-east-1';
const DROPPED = ['if-match', 'if-none-match'];

export interface ForgetfulProxy {
  /** As the server's, through the proxy. */
  url: string;
  /** Conditions that were dropped until now. */
  dropped(): number;
  stop(): Promise<void>;
}

export async function startForgetfulProxy(server: S3Server): Promise<ForgetfulProxy> {
  const upstream = new URL(server.endpoint);
  let dropped = 0;
  const proxy = createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on('data', (bytes: Buffer) => parts.push(bytes));
    incoming.on('end', () => {
      const body = Buffer.concat(parts);
      const kept = Object.entries(incoming.headers).filter(([name]) => !DROPPED.includes(name));
      dropped += Object.keys(incoming.headers).length - kept.length;
      const headers: IncomingHttpHeaders = { ...Object.fromEntries(kept), host: upstream.host };
      const { method = 'GET', url = '/' } = incoming;
      headers.authorization = sign(server, method, url, headers);
      const forwarded = request(
        { host: upstream.hostname, port: upstream.port, method, path: url, headers, agent: false },
        (answer) => {
          outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(outgoing);
        },
      );
      forwarded.on('error', () => outgoing.destroy());
      forwarded.end(body);
    });
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const address = proxy.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const endpoint = `http://127.0.0.1:${address.port}`;
  return {
    url: server.url.replace(encodeURIComponent(server.endpoint), encodeURIComponent(endpoint)),
    dropped: () => dropped,
    stop: async () => {
      proxy.closeAllConnections();
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}

/** https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html */
function sign(server: S3Server, method: string, url: string, headers: IncomingHttpHeaders): string {
  const [path = '/', query = ''] = url.split('?');
  const signed = Object.keys(headers)
    .filter((name) => name === 'host' || name.startsWith('x-amz-'))
    .sort();
  const canonical = [
    method,
    path,
    query
      .split('&')
      .filter((pair) => pair !== '')
      .map((pair) => (pair.includes('=') ? pair : `${pair}=`))
      .sort()
      .join('&'),
    ...signed.map((name) => `${name}:${String(headers[name]).trim()}`),
    '',
    signed.join(';'),
    String(headers['x-amz-content-sha256']),
  ].join('\n');
  const time = String(headers['x-amz-date']);
  const scope = `${time.slice(0, 8)}/${REGION}/s3/aws4_request`;
  const hash = createHash('sha256').update(canonical).digest('hex');
  const hmac = (key: string | Buffer, text: string): Buffer =>
    createHmac('sha256', key).update(text).digest();
  let key: string | Buffer = `AWS4${server.env.AWS_SECRET_ACCESS_KEY ?? ''}`;
  for (const part of scope.split('/')) key = hmac(key, part);
  const signature = hmac(key, ['AWS4-HMAC-SHA256', time, scope, hash].join('\n')).toString('hex');
  return `AWS4-HMAC-SHA256 Credential=${server.env.AWS_ACCESS_KEY_ID}/${scope}, SignedHeaders=${signed.join(';')}, Signature=${signature}`;
}
