/** An option of a store URL, as the reference tells it. */
export interface UrlOption {
  /** What may stand after the `=`, for people. */
  value: string;
  description: string;
  /** For people; undefined when there is nothing to say. */
  fallback?: string | undefined;
}

const ENDPOINT: UrlOption = {
  value: 'http(s)://host:port',
  description: 'Another server that speaks the protocol.',
  fallback: "the cloud's own",
};

const MAX_CONNECTIONS: UrlOption = {
  value: '1 to 4096',
  description: 'Sockets at a time.',
  fallback: '256',
};

const STALL_SECONDS: UrlOption = {
  value: '0.1 to 600',
  description: 'A connection that moves no byte for so many seconds is given up.',
  fallback: '30',
};

/** Of all stores that are reached over a network. */
const ROAD = { maxConnections: MAX_CONNECTIONS, stallSeconds: STALL_SECONDS };

/** The options of store URLs, by kind. */
export const URL_OPTIONS = {
  s3: {
    region: {
      value: 'a region',
      description: "The bucket's region.",
      fallback: 'AWS_REGION or the profile; else us-east-1. A server that names another one is believed',
    },
    endpoint: ENDPOINT,
    pathStyle: {
      value: '1 or 0',
      description: '`host/bucket/key` in place of `bucket.host/key`.',
      fallback: '0 on AWS, 1 elsewhere; when that is refused, the other one is tried once',
    },
    ...ROAD,
    checksum: {
      value: '1 or 0',
      description:
        'Send `x-amz-checksum-sha256` with every put. The SHA-256 in the signature is sent in any case.',
      fallback: '0, until the server says that the bucket wants one (Object Lock)',
    },
    multipart: {
      value: '1 or 0',
      description:
        'Put large files in parts. 1 believes that the server honours conditions on CompleteMultipartUpload.',
      fallback: 'it is tried on objects of some bytes before the first conditional one',
    },
    multipartThreshold: {
      value: 'a size, as 64MiB',
      description: 'Larger files are put in parts.',
      fallback: '64MiB',
    },
    partSize: {
      value: 'a size from 5MiB to 5GiB',
      description: 'Bytes of a part. It grows by itself when a file would have more than 10,000.',
      fallback: '16MiB',
    },
    sse: {
      value: 'AES256, aws:kms or aws:kms:dsse',
      description: 'Encryption by the server (SSE-S3, SSE-KMS, DSSE-KMS).',
      fallback: "the bucket's",
    },
    sseKmsKeyId: {
      value: 'an id, ARN or alias',
      description: 'The KMS key, with `sse=aws:kms` or `aws:kms:dsse`.',
      fallback: "AWS's own key for S3",
    },
    bucketKey: {
      value: '1 or 0',
      description: 'An S3 Bucket Key, with `sse=aws:kms`: one call to KMS for many objects.',
      fallback: "the bucket's",
    },
    storageClass: {
      value: 'a class, as STANDARD_IA',
      description:
        'Storage class of chunks. Documents that are replaced in place (latest.json, leases) stay in the default class. GLACIER and DEEP_ARCHIVE are refused: a restore cannot wait for hours.',
      fallback: 'STANDARD',
    },
    tags: {
      value: 'name=value,name=value',
      description: 'Tags of every object, at most ten. Needs s3:PutObjectTagging.',
    },
    requesterPays: {
      value: '1 or 0',
      description: "Pay for requests and traffic of somebody else's bucket.",
      fallback: '0',
    },
  },
  azure: {
    endpoint: { ...ENDPOINT, description: 'Another server, as azurite, or a cloud of its own, as China.' },
    ...ROAD,
  },
  gs: { endpoint: ENDPOINT, ...ROAD },
  http: ROAD,
} as const satisfies Record<string, Record<string, UrlOption>>;

/** The names of a kind's options. */
export function namesOfOptions(kind: keyof typeof URL_OPTIONS): string[] {
  return Object.keys(URL_OPTIONS[kind]);
}
