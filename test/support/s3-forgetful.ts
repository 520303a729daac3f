/**
 * A front of a real S3 server that drops the conditions of writes, as servers that do not know them do. It signs each request anew, since the
 * conditions are part of what the client signed.
 */
import { startHttpFront } from './http-front.ts';
import type { S3Server } from './s3-server.ts';
import { signS3 } from './s3-signature.ts';

const DROPPED = ['if-match', 'if-none-match'];

export interface ForgetfulProxy {
  /** As the server's, through the proxy. */
  endpoint: string;
  url: string;
  /** Conditions that were dropped until now. */
  dropped(): number;
  stop(): Promise<void>;
}

/** `methods`: of the requests whose conditions are dropped. */
export async function startForgetfulProxy(
  server: S3Server,
  methods: readonly string[] = ['PUT', 'POST'],
): Promise<ForgetfulProxy> {
  let dropped = 0;
  const front = await startHttpFront(
    server.endpoint,
    () => 'pass',
    ({ method = 'GET', url = '/', headers }) => {
      if (!methods.includes(method)) return headers;
      const kept = Object.entries(headers).filter(([name]) => !DROPPED.includes(name));
      dropped += Object.keys(headers).length - kept.length;
      const sent = Object.fromEntries(kept);
      return { ...sent, authorization: signS3(server, method, url, sent) };
    },
  );
  return {
    endpoint: front.endpoint,
    url: server.url.replace(encodeURIComponent(server.endpoint), encodeURIComponent(front.endpoint)),
    dropped: () => dropped,
    stop: front.stop,
  };
}
