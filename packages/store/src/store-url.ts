import { fileURLToPath } from 'node:url';
import { nearest } from '@presync/runtime/nearest';
import { parseS3Url, type S3Url } from './lib/s3-url.ts';
import { namesOfOptions } from './lib/url-options.ts';
import { endpointOf, invalid, optionsOf, prefixOf, type RoadUrl, roadOf } from './lib/url-parts.ts';

/** The options that each kind of store URL may have, for the reference. */
export { URL_OPTIONS, type UrlOption } from './lib/url-options.ts';

/** What a store URL says. Prefixes have no slashes at their ends; '' is the whole bucket. */
export type StoreUrl =
  | { kind: 'file'; dir: string }
  | { kind: 'memory' }
  | S3Url
  | ({ kind: 'azure'; account: string; container: string } & ServerUrl)
  | ({ kind: 'gcs'; bucket: string } & ServerUrl)
  | ({
      kind: 'http';
      /** `http://host[:port][/path]`, without a slash at its end. */
      base: string;
      /** True for `peer+http:`, another machine's `presync serve`. */
      peer: boolean;
    } & RoadUrl);

interface ServerUrl extends RoadUrl {
  prefix: string;
  endpoint: string | undefined;
}

const KNOWN =
  'file:///dir, s3://bucket/prefix, azure://account/container/prefix, gs://bucket/prefix, https://host/prefix, peer+http://host:port and memory:';

const SCHEMES: Readonly<Record<string, (url: URL, text: string) => StoreUrl>> = {
  file: parseFile,
  memory: parseMemory,
  s3: parseS3Url,
  azure: parseAzure,
  gs: parseGcs,
  http: parseHttp,
  https: parseHttp,
  'peer+http': parseHttp,
  'peer+https': parseHttp,
};

/**
 * Reads a store URL:
 * - `file:///dir`
 * - `s3://bucket/prefix?region=…&endpoint=…`
 * - `azure://account/container/prefix?endpoint=…`
 * - `gs://bucket/prefix?endpoint=…`
 * - `https://host/prefix` and `peer+http://host:port`, both read only
 * - `memory:`
 *
 * `URL_OPTIONS` has all their options.
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
  if (url.username !== '' || url.password !== '') {
    throw invalid(
      `the store URL ${scheme}://… has a user name or password in it`,
      "take it out of the URL, which ends up in logs; credentials come from the cloud's usual chain, those of web servers from --store-auth",
    );
  }
  if (url.hash !== '') throw invalid(`a ${scheme}: store URL has no #fragment`, 'write # in a path as %23');
  const parse = Object.hasOwn(SCHEMES, scheme) ? SCHEMES[scheme] : undefined;
  if (parse !== undefined) return parse(url, text);
  const near = nearest(scheme, Object.keys(SCHEMES));
  throw invalid(
    `there is no kind of store ${scheme}:`,
    `${near === undefined ? '' : `did you mean ${near}:? `}the known ones are ${KNOWN}`,
  );
}

function parseMemory(_url: URL, text: string): StoreUrl {
  if (!/^memory:(\/\/\/?)?$/i.test(text))
    throw invalid('a memory: store URL has nothing after the colon', 'write memory:');
  return { kind: 'memory' };
}

function parseFile(url: URL, text: string): StoreUrl {
  if (!/^file:\/\/(localhost)?\//i.test(text)) {
    throw invalid(
      'a file: store URL has three slashes and an absolute path',
      'write file:///its/absolute/path',
    );
  }
  optionsOf(url, []);
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

function parseAzure(url: URL): StoreUrl {
  const found = optionsOf(url, namesOfOptions('azure'));
  // https://learn.microsoft.com/azure/storage/common/storage-account-overview: 3 to 24 small letters and digits.
  // The emulator's account is devstoreaccount1.
  if (!/^[a-z0-9]{3,24}$/.test(url.hostname) || url.port !== '') {
    throw invalid(
      `${JSON.stringify(url.host)} is not the name of a storage account`,
      'write azure://account/container/prefix; the address of another server goes into ?endpoint=https://host:port',
    );
  }
  const [, container = '', rest = ''] = /^\/([^/]*)(.*)$/.exec(url.pathname) ?? [];
  // https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
  if (!/^(?=.{3,63}$)[a-z0-9](?:-?[a-z0-9])+$|^\$root$/.test(container)) {
    throw invalid(
      `${JSON.stringify(container)} is not the name of a container`,
      'write azure://account/container/prefix',
    );
  }
  return {
    kind: 'azure',
    account: url.hostname,
    container,
    prefix: prefixOf(rest, 'azure://account/container/some/prefix'),
    endpoint: endpointOf(found.get('endpoint')),
    ...roadOf(found),
  };
}

function parseGcs(url: URL): StoreUrl {
  const found = optionsOf(url, namesOfOptions('gs'));
  // https://cloud.google.com/storage/docs/buckets#naming
  if (!/^(?=.{3,222}$)[a-z0-9][a-z0-9._-]*[a-z0-9]$/.test(url.hostname) || url.port !== '') {
    throw invalid(
      `${JSON.stringify(url.host)} is not the name of a bucket`,
      'write gs://bucket/prefix; the address of another server goes into ?endpoint=https://host:port',
    );
  }
  return {
    kind: 'gcs',
    bucket: url.hostname,
    prefix: prefixOf(url.pathname, 'gs://bucket/some/prefix'),
    endpoint: endpointOf(found.get('endpoint')),
    ...roadOf(found),
  };
}

function parseHttp(url: URL): StoreUrl {
  const found = optionsOf(url, namesOfOptions('http'));
  const [peer, scheme] = url.protocol.startsWith('peer+')
    ? [true, url.protocol.slice('peer+'.length)]
    : [false, url.protocol];
  if (url.hostname === '') throw invalid('the store URL names no host', `write ${scheme}//host/prefix`);
  // Checks the parts; the path goes on to the server as it was encoded.
  prefixOf(url.pathname, `${scheme}//host/some/prefix`);
  return {
    kind: 'http',
    base: `${scheme}//${url.host}${url.pathname.replace(/\/$/, '')}`,
    peer,
    ...roadOf(found),
  };
}

/** What is safe to repeat of a text that is not a URL. */
function withoutSecrets(text: string): string {
  const short = text.replace(/\?.*$/s, '?…').replace(/\/\/[^/]*@/, '//…@');
  return short.length > 200 ? `${short.slice(0, 200)}…` : short;
}
