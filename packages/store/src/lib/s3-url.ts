import { parseBytes } from '@presync/runtime/units';
import type { PartOptions } from './s3-put.ts';
import type { S3WriteOptions } from './s3-writes.ts';
import { namesOfOptions } from './url-options.ts';
import {
  endpointOf,
  flagOf,
  invalid,
  matching,
  optionsOf,
  prefixOf,
  type RoadUrl,
  roadOf,
} from './url-parts.ts';

/** What an `s3:` store URL says. */
export interface S3Url extends S3WriteOptions, PartOptions, RoadUrl {
  kind: 's3';
  bucket: string;
  prefix: string;
  region: string | undefined;
  endpoint: string | undefined;
  pathStyle: boolean | undefined;
  checksum: boolean | undefined;
  requesterPays: boolean | undefined;
}

const MIB = 1024 ** 2;

/** https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html */
const PART_BYTES = { least: 5 * MIB, most: 5 * 1024 * MIB };

/** Classes whose objects are restored for hours before they can be read. */
const ARCHIVES = new Set(['GLACIER', 'DEEP_ARCHIVE']);

/** https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html */
const MAX_TAGS = 10;
const TAG_TEXT = /^[\p{L}\p{N}\p{Zs}_.:/=+\-@]*$/u;
const MAX_TAG_NAME = 128;
const MAX_TAG_VALUE = 256;

/** Reads an `s3:` store URL. Rejects as `parseStoreUrl` does. */
export function parseS3Url(url: URL): S3Url {
  const found = optionsOf(url, namesOfOptions('s3'));
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
    prefix: prefixOf(url.pathname, 's3://bucket/some/prefix'),
    region: matching('region', found.get('region'), /^[a-z0-9-]+$/, 'as eu-central-1'),
    endpoint: endpointOf(found.get('endpoint')),
    pathStyle: flagOf('pathStyle', found.get('pathStyle')),
    ...roadOf(found),
    checksum: flagOf('checksum', found.get('checksum')),
    multipart: flagOf('multipart', found.get('multipart')),
    multipartThreshold: sizeOf('multipartThreshold', found.get('multipartThreshold'), 0, PART_BYTES.most),
    partSize: sizeOf('partSize', found.get('partSize'), PART_BYTES.least, PART_BYTES.most),
    ...encryptionOf(found),
    storageClass: storageClassOf(found.get('storageClass')),
    tags: tagsOf(found.get('tags')),
    requesterPays: flagOf('requesterPays', found.get('requesterPays')),
  };
}

function encryptionOf(found: Map<string, string>): Pick<S3WriteOptions, 'sse' | 'sseKmsKeyId' | 'bucketKey'> {
  const name = found.get('sse');
  const sse = name === 'AES256' || name === 'aws:kms' || name === 'aws:kms:dsse' ? name : undefined;
  if (sse === undefined)
    matching('sse', name, /^(AES256|aws:kms|aws:kms:dsse)$/, 'AES256, aws:kms or aws:kms:dsse');
  // Ids, ARNs and aliases; MinIO has names. Nothing that is a key itself gets through.
  const sseKmsKeyId = matching(
    'sseKmsKeyId',
    found.get('sseKmsKeyId'),
    /^[A-Za-z0-9][A-Za-z0-9:/_.-]{0,2047}$/,
    'the id, ARN or alias of a key',
  );
  const bucketKey = flagOf('bucketKey', found.get('bucketKey'));
  if (sseKmsKeyId !== undefined && sse !== 'aws:kms' && sse !== 'aws:kms:dsse')
    throw invalid(
      'the store URL names a KMS key, and no encryption with one',
      'add sse=aws:kms, or take out sseKmsKeyId',
    );
  if (bucketKey !== undefined && sse !== 'aws:kms')
    throw invalid(
      'bucketKey in the store URL is for sse=aws:kms only',
      'add sse=aws:kms, or take out bucketKey',
    );
  return { sse, sseKmsKeyId, bucketKey };
}

function storageClassOf(name: string | undefined): string | undefined {
  if (name !== undefined && ARCHIVES.has(name)) {
    throw invalid(
      `objects of the storage class ${name} cannot be read at once: each has to be restored first, which takes hours`,
      'use GLACIER_IR, STANDARD_IA or INTELLIGENT_TIERING, whose objects can be read at any time',
    );
  }
  return matching('storageClass', name, /^[A-Z][A-Z0-9_-]{0,63}$/i, 'a storage class, as STANDARD_IA');
}

function tagsOf(text: string | undefined): Record<string, string> | undefined {
  if (text === undefined) return undefined;
  const tags = new Map<string, string>();
  for (const pair of text.split(',')) {
    const [, name = '', value = ''] = /^([^=]+)=(.*)$/s.exec(pair) ?? [];
    const fits =
      name !== '' &&
      name.length <= MAX_TAG_NAME &&
      value.length <= MAX_TAG_VALUE &&
      TAG_TEXT.test(name + value);
    if (!fits) {
      throw invalid(
        `the store URL's option tags has ${JSON.stringify(pair)}, which is not a tag`,
        'write tags=name=value,name=value, of letters, digits, spaces and _ . : / = + - @',
      );
    }
    if (/^aws:/i.test(name))
      throw invalid(`the tag ${JSON.stringify(name)} is reserved for AWS`, 'give it another name');
    if (tags.has(name))
      throw invalid(`the store URL has the tag ${JSON.stringify(name)} twice`, 'keep one of them');
    tags.set(name, value);
  }
  if (tags.size > MAX_TAGS)
    throw invalid(
      `the store URL has ${tags.size} tags; an object has at most ${MAX_TAGS}`,
      'take some of them out',
    );
  return Object.fromEntries(tags);
}

function sizeOf(name: string, text: string | undefined, least: number, most: number): number | undefined {
  if (text === undefined) return undefined;
  let bytes = Number.NaN;
  try {
    bytes = parseBytes(text);
  } catch {
    // The message of the URL's own is the better one.
  }
  if (bytes >= least && bytes <= most) return bytes;
  const range = `a size from ${least / MIB}MiB to ${most / MIB}MiB, as 64MiB`;
  throw invalid(`the store URL's option ${name} cannot be ${JSON.stringify(text)}`, `write ${range}`);
}
