import { PresyncError } from '@presync/runtime/errors';

/** Which server is asked, and whether it is told who asks. */
export interface GcsServer {
  /** Base URL, without a slash at its end. Undefined for Google's own, which the SDK knows. */
  endpoint: string | undefined;
  /** True where credentials are neither looked up nor sent. */
  anonymous: boolean;
}

/**
 * Credentials go over https only:
 * - no `endpoint`, or one over https: with credentials.
 * - an `endpoint` over plain http on a loopback address: without. It is an emulator (fake-gcs-server), which wants none.
 * - STORAGE_EMULATOR_HOST, the variable that sends Google's own clients to an emulator: it is the server when there is
 *   no `endpoint`, and that server is asked without credentials, wherever it is.
 * - any other `endpoint` over plain http is refused, since a token could be read on the way.
 *
 * @throws PresyncError STORE_URL_INVALID.
 */
export function gcsServer(endpoint: string | undefined, emulatorHost: string | undefined): GcsServer {
  const emulator = emulatorHost === undefined || emulatorHost === '' ? undefined : emulatorOf(emulatorHost);
  if (endpoint === undefined) return { endpoint: emulator?.base, anonymous: emulator !== undefined };
  const url = webAddress(endpoint, 'the endpoint of the store URL');
  if (url.origin === emulator?.origin) return { endpoint, anonymous: true };
  if (url.protocol === 'https:') return { endpoint, anonymous: false };
  if (isLoopback(url.hostname)) return { endpoint, anonymous: true };
  throw new PresyncError(
    'STORE_URL_INVALID',
    `the endpoint ${url.origin} is plain http, over which credentials are not sent`,
    {
      hint: `write https://; or, when it is an emulator that wants no credentials, set STORAGE_EMULATOR_HOST=${url.origin}`,
    },
  );
}

function emulatorOf(host: string): { base: string; origin: string } {
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(host) ? host : `http://${host}`;
  const url = webAddress(text, 'STORAGE_EMULATOR_HOST');
  // Clients differ in whether they want the path of the API in it.
  const path = url.pathname.replace(/\/+$/, '').replace(/\/storage\/v1$/, '');
  return { base: url.origin + path, origin: url.origin };
}

function webAddress(text: string, what: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '')
    return url;
  throw new PresyncError(
    'STORE_URL_INVALID',
    `${what} is not an http or https URL without a user and password`,
    {
      hint: 'write it as https://host:port',
    },
  );
}

function isLoopback(hostname: string): boolean {
  return /^(127\.\d+\.\d+\.\d+|\[::1\]|(.+\.)?localhost)$/.test(hostname);
}
