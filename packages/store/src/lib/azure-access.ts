import { isIP } from 'node:net';
import type { AnonymousCredential, StorageSharedKeyCredential } from '@azure/storage-blob';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import { createTokenSource, type TokenSource } from './azure-token.ts';
import { invalid } from './url-parts.ts';

/** How the store is reached, and by what right. */
export interface AzureAccess {
  /** Of the account, without a slash at its end. */
  serviceUrl: string;
  /** What every URL ends with: '', or a SAS token after `?`. */
  query: string;
  credential: StorageSharedKeyCredential | AnonymousCredential | TokenSource;
  means: 'key' | 'sas' | 'identity';
  /** Takes out of a text what nobody may read. */
  redact(text: string): string;
  /** Lets go of a token that the store refused and that was there at `since`; keys and SAS tokens stay what they are. */
  renew(since: number): void;
}

export interface AccessOptions {
  account: string;
  /** Of the store URL. */
  endpoint: string | undefined;
  /** A token that takes longer is not waited for. */
  tokenMs: number;
}

const CONNECTION_STRING = 'AZURE_STORAGE_CONNECTION_STRING';
const KEY = 'AZURE_STORAGE_KEY';
const SAS = 'AZURE_STORAGE_SAS_TOKEN';

/** What the chain of credentials reads, and a careless message might repeat. */
const SECRET_VARIABLES = [
  'AZURE_CLIENT_SECRET',
  'AZURE_CLIENT_CERTIFICATE_PASSWORD',
  'AZURE_PASSWORD',
  'IDENTITY_HEADER',
  'MSI_SECRET',
];

/**
 * The first of these that the environment has: `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, as
 * Azure CLI names them; otherwise DefaultAzureCredential (environment, workload identity, managed identity, Azure CLI).
 *
 * @throws PresyncError CONFIG_INVALID when one of them is not what it should be.
 */
export async function azureAccess(options: AccessOptions): Promise<AzureAccess> {
  const { account } = options;
  const connectionString = variable(CONNECTION_STRING);
  if (connectionString !== undefined) return fromConnectionString(connectionString, options);
  const serviceUrl = serviceUrlOf(options.endpoint ?? `https://${account}.blob.core.windows.net`, account);
  const key = variable(KEY);
  if (key !== undefined) return withKey(serviceUrl, account, key, KEY);
  const sas = variable(SAS);
  if (sas !== undefined) return withSas(serviceUrl, sas, SAS);
  return withIdentity(serviceUrl, options.tokenMs);
}

async function fromConnectionString(text: string, options: AccessOptions): Promise<AzureAccess> {
  const { account } = options;
  const parts = new Map(
    text.split(';').flatMap((part) => {
      const at = part.indexOf('=');
      return at < 1 ? [] : [[part.slice(0, at).trim().toLowerCase(), part.slice(at + 1).trim()] as const];
    }),
  );
  const blobEndpoint = parts.get('blobendpoint')?.replace(/\/$/, '');
  if (blobEndpoint !== undefined && !URL.canParse(blobEndpoint))
    throw wrong(CONNECTION_STRING, 'has a BlobEndpoint that is no URL');
  const named =
    parts.get('accountname') ?? (blobEndpoint === undefined ? undefined : accountOf(blobEndpoint));
  if (named !== undefined && named !== account) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `${CONNECTION_STRING} is for the storage account ${named}, the store URL for ${account}`,
      { hint: `name ${named} in the store URL, or give the connection string of ${account}` },
    );
  }
  const protocol = parts.get('defaultendpointsprotocol') ?? 'https';
  const suffix = parts.get('endpointsuffix') ?? 'core.windows.net';
  const usual = `${protocol}://${account}.blob.${suffix}`;
  if (!/^https?$/.test(protocol) || !URL.canParse(usual))
    throw wrong(CONNECTION_STRING, 'has a DefaultEndpointsProtocol or EndpointSuffix that makes no URL');
  const serviceUrl = serviceUrlOf(options.endpoint ?? blobEndpoint ?? usual, account);
  const key = parts.get('accountkey');
  if (key !== undefined) return withKey(serviceUrl, account, key, CONNECTION_STRING);
  const sas = parts.get('sharedaccesssignature');
  if (sas !== undefined) return withSas(serviceUrl, sas, CONNECTION_STRING);
  throw wrong(CONNECTION_STRING, 'has neither AccountKey nor SharedAccessSignature');
}

async function withKey(
  serviceUrl: string,
  account: string,
  key: string,
  source: string,
): Promise<AzureAccess> {
  if (!/^(?:[A-Za-z0-9+/]{4}){4,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(key))
    throw wrong(source, 'has no account key in it: those are base64');
  const { StorageSharedKeyCredential } = await import('@azure/storage-blob');
  return {
    serviceUrl,
    query: '',
    credential: new StorageSharedKeyCredential(account, key),
    means: 'key',
    redact: redactor([key]),
    renew: () => undefined,
  };
}

async function withSas(serviceUrl: string, text: string, source: string): Promise<AzureAccess> {
  const sas = text.replace(/^\?/, '');
  const signature = new URLSearchParams(sas).get('sig');
  if (!signature || /[\s#?]/.test(sas)) {
    throw wrong(source, 'has no SAS token in it: those are of the form sv=…&se=…&sp=…&sig=…');
  }
  const { AnonymousCredential } = await import('@azure/storage-blob');
  return {
    serviceUrl,
    query: `?${sas}`,
    credential: new AnonymousCredential(),
    means: 'sas',
    redact: redactor([sas, signature, signature.replaceAll(' ', '+')]),
    renew: () => undefined,
  };
}

async function withIdentity(serviceUrl: string, tokenMs: number): Promise<AzureAccess> {
  const { DefaultAzureCredential } = await import('@azure/identity');
  const redact = redactor([]);
  let credential: TokenSource;
  try {
    credential = createTokenSource(
      () => new DefaultAzureCredential({ retryOptions: { maxRetries: 0 } }),
      tokenMs,
    );
  } catch (error) {
    throw new PresyncError('CONFIG_INVALID', redact(messageOf(error)), {
      hint: 'look at the AZURE_ variables in the environment',
    });
  }
  return {
    serviceUrl,
    query: '',
    credential,
    means: 'identity',
    redact,
    renew: (since) => credential.renew(since),
  };
}

/**
 * The base URL of the account. An endpoint with a path is taken as it is. One without is the account's own host, or a custom domain of
 * it; only emulators and proxies, which are named by an address, a single word or the emulator's port, have the account in the path.
 */
function serviceUrlOf(endpoint: string, account: string): string {
  const url = new URL(endpoint);
  const named = accountOf(endpoint);
  if (named !== undefined && named !== account) {
    throw invalid(
      `the endpoint is that of the storage account ${named}, the store URL is for ${account}`,
      'name the same account in both',
    );
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const shared = isIP(host) !== 0 || !host.includes('.') || url.port === EMULATOR_PORT;
  const base = endpoint.replace(/\/$/, '');
  return url.pathname === '/' && shared ? `${base}/${account}` : base;
}

const EMULATOR_PORT = '10000';

/** The account in `https://account.blob.core.windows.net` or `https://account-secondary.blob.…`. */
function accountOf(endpoint: string): string | undefined {
  return /^([a-z0-9]+)(?:-secondary)?\.blob\./.exec(new URL(endpoint).hostname)?.[1];
}

function variable(name: string): string | undefined {
  const value = process.env[name]?.trim();
  return value === '' ? undefined : value;
}

function wrong(source: string, what: string): PresyncError {
  return new PresyncError('CONFIG_INVALID', `${source} ${what}`, {
    hint: 'copy it anew from the portal, or from az storage account show-connection-string, keys list or generate-sas',
  });
}

/** What is shorter would be found in many a word. */
const MIN_SECRET = 6;

/** Of what the store and servers in between say, the URL that they were asked is the part that must not go on. */
function redactor(secrets: readonly string[]): (text: string) => string {
  const known = [...secrets, ...SECRET_VARIABLES.flatMap((name) => variable(name) ?? [])]
    .flatMap((secret) => (secret.length < MIN_SECRET ? [] : [secret, encodeURIComponent(secret)]))
    .sort((a, b) => b.length - a.length);
  return (text) =>
    known
      .reduce((left, secret) => left.replaceAll(secret, '…'), text)
      // The user and password of a proxy.
      .replaceAll(/\/\/[^/\s@]+@/g, '//…@')
      .replaceAll(/\b(sig=)[^&\s"'<>]+/gi, '$1…')
      .replaceAll(/\b(Bearer|SharedKey) [^\s"'<>]+/g, '$1 …')
      .replaceAll(/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, '…');
}
