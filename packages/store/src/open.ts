import { fileURLToPath } from 'node:url';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { nearest } from '@presync/runtime/nearest';
import { createFileStore } from './file.ts';
import { createMemoryStore } from './memory.ts';
import type { CallOptions, ObjectStore } from './object-store.ts';
import { createS3Store } from './s3.ts';

export type StoreUrl =
  | { kind: 'file'; dir: string }
  | { kind: 'memory' }
  | {
      kind: 's3';
      bucket: string;
      /** Without slashes at its ends; '' for the whole bucket. */
      prefix: string;
      region: string | undefined;
      endpoint: string | undefined;
      pathStyle: boolean;
      maxConnections: number | undefined;
    };

const KNOWN = 'file:///dir, s3://bucket/prefix and memory:';

/** Part of the command's contract, and not in this version. */
const PLANNED = ['azure', 'gs', 'http', 'https', 'peer+http', 'peer+https'];

const S3_OPTIONS = ['region', 'endpoint', 'pathStyle', 'maxConnections'] as const;

/** Names under which people put secrets into URLs. */
const SECRET = /secret|password|passwd|token|credential|access.?key|session|sig$|^sas/i;

/** More sockets than one process can use with profit. */
const MAX_CONNECTIONS = 4096;

/**
 * Reads a store URL: `file:///dir`, `s3://bucket/prefix?region=…&endpoint=…&pathStyle=1&maxConnections=…`, `memory:`.
 *
 * @throws PresyncError STORE_URL_INVALID with the part that is wrong; never with anything that may be a secret.
 */
export function parseStoreUrl(text: string): StoreUrl {
  if (!/^[A-Za-z][A-Za-z0-9+.-]*:/.test(text) || !URL.canParse(text)) {
    const hint = /^[./~]/.test(text)
      ? 'write a folder as file:///its/absolute/path'
      : `write one of ${KNOWN}`;
    throw invalid(`${JSON.stringify(withoutSecrets(text))} is not a store URL`, hint);
  }
  const url = new URL(text);
  const scheme = url.protocol.slice(0, -1);
  if (PLANNED.includes(scheme)) {
    throw invalid(`${scheme}: stores are not supported by this version of presync`, `use one of ${KNOWN}`);
  }
  if (url.username !== '' || url.password !== '') {
    throw invalid(
      `the store URL ${scheme}://… has a user name or password in it`,
      "take it out of the URL, which ends up in logs; credentials come from the cloud's usual chain",
    );
  }
  if (url.hash !== '') throw invalid(`a ${scheme}: store URL has no #fragment`, 'write # in a path as %23');
  if (scheme === 'file') return parseFile(text, url);
  if (scheme === 's3') return parseS3(url);
  if (scheme === 'memory') {
    if (!/^memory:(\/\/\/?)?$/i.test(text))
      throw invalid('a memory: store URL has nothing after the colon', 'write memory:');
    return { kind: 'memory' };
  }
  const near = nearest(scheme, ['file', 's3', 'memory', ...PLANNED]);
  throw invalid(
    `there is no kind of store ${scheme}:`,
    `${near === undefined ? '' : `did you mean ${near}:? `}the known ones are ${KNOWN}`,
  );
}

function parseFile(text: string, url: URL): StoreUrl {
  if (!/^file:\/\/(localhost)?\//i.test(text)) {
    throw invalid(
      'a file: store URL has three slashes and an absolute path',
      'write file:///its/absolute/path',
    );
  }
  options(url, []);
  let dir: string;
  try {
    dir = fileURLToPath(url);
  } catch (cause) {
    throw invalid(
      `the path ${url.pathname} of the store URL is not one`,
      'write file:///its/absolute/path',
      cause,
    );
  }
  if (dir.includes('\0')) throw invalid('the path of the store URL has a zero byte in it', 'take out %00');
  if (/^\/*$/.test(dir)) throw invalid('the root folder is no place for a store', 'name a folder of its own');
  return { kind: 'file', dir: dir.replace(/\/+$/, '') };
}

function parseS3(url: URL): StoreUrl {
  const found = options(url, S3_OPTIONS);
  // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the older, laxer rules.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/.test(url.hostname) || url.port !== '') {
    throw invalid(
      `${JSON.stringify(url.host)} is not the name of a bucket`,
      'write s3://bucket/prefix; the address of another server goes into ?endpoint=https://host:port',
    );
  }
  return {
    kind: 's3',
    bucket: url.hostname,
    prefix: prefixOf(url),
    region: matching('region', found.get('region'), /^[a-z0-9-]+$/, 'as eu-central-1'),
    endpoint: endpointOf(found.get('endpoint')),
    pathStyle: /^(1|true)$/.test(
      matching('pathStyle', found.get('pathStyle'), /^(0|1|true|false)$/, '1 or 0') ?? '0',
    ),
    maxConnections: connectionsOf(found.get('maxConnections')),
  };
}

function prefixOf(url: URL): string {
  let prefix: string;
  try {
    prefix = decodeURIComponent(url.pathname).replace(/^\/|\/$/g, '');
  } catch (cause) {
    throw invalid(`the prefix ${url.pathname} of the store URL is wrongly encoded`, 'write % as %25', cause);
  }
  const bad = prefix.split('/').find((part) => part === '' || part === '.' || part === '..');
  if ((prefix !== '' && bad !== undefined) || /\p{Cc}/u.test(prefix) || prefix.length > 400) {
    throw invalid(
      `the prefix ${JSON.stringify(prefix)} of the store URL has an empty, . or .. part, a control character, or more than 400 characters`,
      'write s3://bucket/some/prefix',
    );
  }
  return prefix;
}

function endpointOf(value: string | undefined): string | undefined {
  if (value === undefined) return undefined;
  const endpoint = URL.canParse(value) ? new URL(value) : undefined;
  if (endpoint === undefined || !/^https?:$/.test(endpoint.protocol)) {
    throw invalid(
      'the endpoint of the store URL is not an http or https URL',
      'write ?endpoint=https://host:port',
    );
  }
  if (endpoint.username !== '' || endpoint.password !== '') {
    throw invalid(
      'the endpoint of the store URL has a user name or password in it',
      "take it out; credentials come from the cloud's usual chain",
    );
  }
  if (endpoint.search !== '' || endpoint.hash !== '') {
    throw invalid(
      'the endpoint of the store URL has a ?query or #fragment of its own',
      'write ?endpoint=https://host:port, and the other options after &',
    );
  }
  return endpoint.href.replace(/\/$/, '');
}

function connectionsOf(value: string | undefined): number | undefined {
  const hint = `a whole number from 1 to ${MAX_CONNECTIONS}`;
  const text = matching('maxConnections', value, /^[1-9]\d{0,3}$/, hint);
  if (text !== undefined && Number(text) > MAX_CONNECTIONS) matching('maxConnections', text, /^$/, hint);
  return text === undefined ? undefined : Number(text);
}

function matching(
  name: string,
  value: string | undefined,
  pattern: RegExp,
  hint: string,
): string | undefined {
  if (value === undefined || pattern.test(value)) return value;
  throw invalid(`the store URL's option ${name} cannot be ${JSON.stringify(value)}`, `write ${hint}`);
}

function options(url: URL, known: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const [name, value] of url.searchParams) {
    if (!known.includes(name)) throw unknownOption(url, name, known);
    if (found.has(name)) throw invalid(`the store URL has the option ${name} twice`, 'keep one of them');
    found.set(name, value);
  }
  return found;
}

function unknownOption(url: URL, name: string, known: readonly string[]): PresyncError {
  const scheme = url.protocol;
  const message = `a ${scheme} store URL has no option ${JSON.stringify(name)}`;
  const near = nearest(name, known);
  if (near !== undefined) return invalid(message, `did you mean ${near}?`);
  if (SECRET.test(name)) {
    return invalid(message, "credentials come from the cloud's usual chain, never from the URL");
  }
  return invalid(message, known.length === 0 ? 'it has none' : `it has ${known.join(', ')}`);
}

/** What is safe to repeat of a text that is not a URL. */
function withoutSecrets(text: string): string {
  const short = text.replace(/\?.*$/s, '?…').replace(/\/\/[^/]*@/, '//…@');
  return short.length > 200 ? `${short.slice(0, 200)}…` : short;
}

function invalid(message: string, hint: string, cause?: unknown): PresyncError {
  return new PresyncError('STORE_URL_INVALID', message, { hint, cause });
}

/**
 * Opens the store of a URL as its bare adapter: the program wraps it (`withMetrics`, `withRetry`, `withLimit`).
 * Nothing is read or sent, so a store that does not exist is found out by the first call.
 *
 * @throws PresyncError STORE_URL_INVALID.
 */
export async function openStore(text: string, { signal }: CallOptions): Promise<ObjectStore> {
  throwIfAborted(signal);
  const url = parseStoreUrl(text);
  switch (url.kind) {
    case 'file':
      return createFileStore({ dir: url.dir });
    case 'memory':
      return createMemoryStore();
    case 's3':
      return createS3Store(url);
  }
}
