import type { PutObjectCommandInput } from '@aws-sdk/client-s3';

/** What is asked of the server for the objects that are put. */
export interface S3WriteOptions {
  /** Encryption by the server. Default: as the bucket has it. */
  sse?: 'AES256' | 'aws:kms' | 'aws:kms:dsse' | undefined;
  /** Id, ARN or alias of the key for `aws:kms`. Default: AWS's own for S3. */
  sseKmsKeyId?: string | undefined;
  /** One key for the bucket in place of one call to KMS for each object. */
  bucketKey?: boolean | undefined;
  /** Of chunks. Documents that are replaced in place stay in the bucket's default class. */
  storageClass?: string | undefined;
  /** Of every object, at most ten. */
  tags?: Readonly<Record<string, string>> | undefined;
}

type WriteParameters = Pick<
  PutObjectCommandInput,
  'ServerSideEncryption' | 'SSEKMSKeyId' | 'BucketKeyEnabled' | 'Tagging'
>;

/** The parameters of a put, or of the begin of a multipart upload. */
export function writeParameters({ sse, sseKmsKeyId, bucketKey, tags }: S3WriteOptions): WriteParameters {
  return {
    ...(sse === undefined ? {} : { ServerSideEncryption: sse }),
    ...(sseKmsKeyId === undefined ? {} : { SSEKMSKeyId: sseKmsKeyId }),
    ...(bucketKey === undefined ? {} : { BucketKeyEnabled: bucketKey }),
    ...(tags === undefined ? {} : { Tagging: `${new URLSearchParams(tags)}` }),
  };
}

/**
 * The header for the storage class: the SDK's parameter takes those of AWS only, and other servers have their own. It is for objects that are
 * never replaced: the classes for rare access cost for a month and for 128 KiB at least, and again for each read, and what is replaced in
 * place is small, short-lived and read often (https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html).
 */
export function classHeaders({ storageClass }: S3WriteOptions, immutable: boolean): Record<string, string> {
  return storageClass === undefined || !immutable ? {} : { 'x-amz-storage-class': storageClass };
}

/** The options that are in use, by their names in the store URL. */
export function extrasOf(options: S3WriteOptions & { requesterPays?: boolean | undefined }): string[] {
  const { sse, sseKmsKeyId, bucketKey, storageClass, tags, requesterPays } = options;
  const used = { sse, sseKmsKeyId, bucketKey, storageClass, tags, requesterPays: requesterPays || undefined };
  return Object.entries(used).flatMap(([name, value]) => (value === undefined ? [] : [name]));
}
