/** Gives access tokens as an Azure instance's identity endpoint and as Google's metadata server do. */
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

export interface TokenServer {
  /** What a process needs in its environment to ask it, and nobody else. */
  azure: Record<string, string>;
  gcs: Record<string, string>;
  /** Tokens given so far. */
  given(): number;
  stop(): Promise<void>;
}

const SECRET = 'presync-test-identity';
/** How long a token says that it is good. */
const LIFE_S = 3600;
const TENANT = '72f988bf-86f1-41af-91ab-2d7cd011db47';

export async function startTokenServer(): Promise<TokenServer> {
  let given = 0;
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    const answer = path.startsWith('/token')
      ? azureToken()
      : path.startsWith('/computeMetadata/v1/instance/service-accounts/default/token')
        ? {
            access_token: `ya29.${randomBytes(24).toString('hex')}`,
            expires_in: LIFE_S,
            token_type: 'Bearer',
          }
        : undefined;
    if (answer !== undefined) given += 1;
    response.writeHead(answer === undefined ? 404 : 200, {
      'content-type': 'application/json',
      'metadata-flavor': 'Google',
    });
    response.end(JSON.stringify(answer ?? {}));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const host = `127.0.0.1:${address.port}`;
  return {
    azure: {
      AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential',
      IDENTITY_ENDPOINT: `http://${host}/token`,
      IDENTITY_HEADER: SECRET,
    },
    gcs: { GCE_METADATA_HOST: host, METADATA_SERVER_DETECTION: 'assume-present' },
    given: () => given,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** With the claims that azurite looks at (`--oauth basic`); the signature it does not. */
function azureToken(): object {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    aud: 'https://storage.azure.com',
    iss: `https://sts.windows.net/${TENANT}/`,
    iat: now - 60,
    nbf: now - 60,
    exp: now + LIFE_S,
    jti: randomBytes(12).toString('hex'),
  };
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  return {
    access_token: `${part({ typ: 'JWT', alg: 'RS256' })}.${part(claims)}.${randomBytes(24).toString('base64url')}`,
    expires_on: String(now + LIFE_S),
    resource: 'https://storage.azure.com',
    token_type: 'Bearer',
  };
}
