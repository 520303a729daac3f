/**
 * What AWS does with the credentials of roles, in front of a real S3 server that does not: an endpoint that gives credentials which expire, as
 * the container or instance of a role has it, and a front of the server that takes only those of now.
 */
import { createServer } from 'node:http';
import { type HttpFront, startHttpFront } from './http-front.ts';
import type { S3Server } from './s3-server.ts';
import { signS3 } from './s3-signature.ts';

export interface TokenGate extends HttpFront {
  /** What a process needs in its environment to get its credentials here. */
  env: Record<string, string>;
  /** Credentials that were given until now. */
  given(): number;
  /** Requests that were refused for credentials of before. */
  refused(): number;
}

/** `lifetime`: requests after which the credentials have expired, unannounced. */
export async function startTokenGate(server: S3Server, lifetime: number): Promise<TokenGate> {
  let generation = 1;
  let given = 0;
  let refused = 0;
  let left = lifetime;
  const secret = 'a-secret-of-the-role';
  const source = createServer((_, response) => {
    given++;
    response.writeHead(200, { 'content-type': 'application/json' }).end(
      JSON.stringify({
        AccessKeyId: `ROLE${generation}`,
        SecretAccessKey: secret,
        Token: `token-${generation}`,
        // Far away: what the endpoint says does not keep a token from being revoked.
        Expiration: new Date(Date.now() + 3_600_000).toISOString(),
      }),
    );
  });
  await new Promise<void>((resolve) => source.listen(0, '127.0.0.1', resolve));
  const address = source.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const front = await startHttpFront(
    server.endpoint,
    (_, incoming) => {
      if (left-- <= 0) {
        generation++;
        left = lifetime;
      }
      if (incoming.headers['x-amz-security-token'] === `token-${generation}`) return 'pass';
      refused++;
      return ({ method }, outgoing) => {
        const body =
          '<?xml version="1.0"?><Error><Code>ExpiredToken</Code><Message>it has expired</Message></Error>';
        outgoing.writeHead(400, { 'content-type': 'application/xml', 'content-length': body.length });
        outgoing.end(method === 'HEAD' ? undefined : body);
      };
    },
    ({ method = 'GET', url = '/', headers }) => {
      const { 'x-amz-security-token': _, ...kept } = headers;
      return { ...kept, authorization: signS3(server, method, url, kept) };
    },
  );
  return {
    ...front,
    env: {
      AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://127.0.0.1:${address.port}/credentials`,
      AWS_EC2_METADATA_DISABLED: 'true',
    },
    given: () => given,
    refused: () => refused,
    async stop() {
      await front.stop();
      source.closeAllConnections();
      await new Promise((resolve) => source.close(resolve));
    },
  };
}
