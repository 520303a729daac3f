import type { IncomingHttpHeaders } from 'node:http';
import type { S3Server } from './s3-server.ts';
import { signatureOf } from './sigv4.ts';

const REGION = 'us-east-1';

/**
 * The `Authorization` of a request, signed anew with the server's own credentials for us-east-1
 * (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
 */
export function signS3(server: S3Server, method: string, url: string, headers: IncomingHttpHeaders): string {
  const signedHeaders = Object.keys(headers)
    .filter((name) => name === 'host' || name.startsWith('x-amz-'))
    .sort();
  const payload = String(headers['x-amz-content-sha256']);
  const signature = signatureOf(
    { method, url, headers, signedHeaders, payload },
    { secret: server.env.AWS_SECRET_ACCESS_KEY ?? '', region: REGION, service: 's3' },
  );
  const scope = `${String(headers['x-amz-date']).slice(0, 8)}/${REGION}/s3/aws4_request`;
  return `AWS4-HMAC-SHA256 Credential=${server.env.AWS_ACCESS_KEY_ID}/${scope}, SignedHeaders=${signedHeaders.join(';')}, Signature=${signature}`;
}
