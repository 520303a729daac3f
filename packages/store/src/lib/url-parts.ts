import { PresyncError } from '@presync/runtime/errors';
import { nearest } from '@presync/runtime/nearest';

/** Names under which people put secrets into URLs. */
const SECRET = /secret|password|passwd|token|credential|access.?key|session|signature|sig$|^sas|^key$/i;

/** More sockets than one process can use with profit. */
const MAX_CONNECTIONS = 4096;

/** Below this a busy machine is late by itself; above, whoever waits has long given up. */
const STALL_SECONDS = { min: 0.1, max: 600 };

/** STORE_URL_INVALID. Neither text may repeat what may be a secret. */
export function invalid(message: string, hint: string, cause?: unknown): PresyncError {
  return new PresyncError('STORE_URL_INVALID', message, { hint, cause });
}

/** The URL's options; each of the known ones at most once, and none besides. */
export function optionsOf(url: URL, known: readonly string[]): Map<string, string> {
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

/** The value, if it has the form; `hint` says which that is. */
export function matching(
  name: string,
  value: string | undefined,
  pattern: RegExp,
  hint: string,
): string | undefined {
  if (value === undefined || pattern.test(value)) return value;
  throw invalid(`the store URL's option ${name} cannot be ${JSON.stringify(value)}`, `write ${hint}`);
}

/** A yes or no, as 1, true, 0 or false. */
export function flagOf(name: string, value: string | undefined): boolean | undefined {
  const text = matching(name, value, /^(0|1|true|false)$/, '1 or 0');
  return text === undefined ? undefined : text === '1' || text === 'true';
}

/** The option `maxConnections`. */
function connectionsOf(value: string | undefined): number | undefined {
  const hint = `a whole number from 1 to ${MAX_CONNECTIONS}`;
  const text = matching('maxConnections', value, /^[1-9]\d{0,3}$/, hint);
  if (text !== undefined && Number(text) > MAX_CONNECTIONS) matching('maxConnections', text, /^$/, hint);
  return text === undefined ? undefined : Number(text);
}

/** The option `stallSeconds`, in milliseconds. */
function stallOf(value: string | undefined): number | undefined {
  const { min, max } = STALL_SECONDS;
  const hint = `seconds from ${min} to ${max}`;
  const text = matching('stallSeconds', value, /^\d{1,3}(\.\d{1,3})?$/, hint);
  if (text === undefined) return undefined;
  if (Number(text) < min || Number(text) > max) matching('stallSeconds', text, /^$/, hint);
  return Math.round(Number(text) * 1000);
}

/** What all stores that are reached over a network take. */
export interface RoadUrl {
  maxConnections: number | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. */
  stallMs: number | undefined;
}

export function roadOf(found: ReadonlyMap<string, string>): RoadUrl {
  return {
    maxConnections: connectionsOf(found.get('maxConnections')),
    stallMs: stallOf(found.get('stallSeconds')),
  };
}

/** The decoded path without slashes at its ends: a key prefix, whose parts are names. `example` is a right URL. */
export function prefixOf(pathname: string, example: string): string {
  let prefix: string;
  try {
    prefix = decodeURIComponent(pathname).replace(/^\/|\/$/g, '');
  } catch (cause) {
    throw invalid(`the prefix ${pathname} of the store URL is wrongly encoded`, 'write % as %25', cause);
  }
  const bad = prefix.split('/').find((part) => part === '' || part === '.' || part === '..');
  if ((prefix !== '' && bad !== undefined) || /\p{Cc}/u.test(prefix) || prefix.length > 400) {
    throw invalid(
      `the prefix ${JSON.stringify(prefix)} of the store URL has an empty, . or .. part, a control character, or more than 400 characters`,
      `write ${example}`,
    );
  }
  return prefix;
}

/** The option `endpoint`: the base URL of a server, without a slash at its end. */
export function endpointOf(value: string | undefined): string | undefined {
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
