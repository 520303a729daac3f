import { messageOf, PresyncError } from '@presync/runtime/errors';

/** What the instance's role must allow; documented in docs/joining.md. */
const POLICY =
  "give the instance's role autoscaling:CompleteLifecycleAction and autoscaling:RecordLifecycleActionHeartbeat on the group, and autoscaling:DescribeAutoScalingInstances and autoscaling:DescribeLifecycleHooks on *";

const FORBIDDEN = new Set([
  'AccessDenied',
  'AccessDeniedException',
  'UnauthorizedOperation',
  'InvalidClientTokenId',
  'UnrecognizedClientException',
  'OptInRequired',
]);

/** Refusals that the same call may not meet again: of throttling, of clocks and tokens that the SDK sets right, of a group at work. */
const PASSING = new Set([
  'Throttling',
  'ThrottlingException',
  'RequestLimitExceeded',
  'ResourceContention',
  'ResourceContentionFault',
  'ServiceUnavailable',
  'InternalFailure',
  'ExpiredToken',
  'ExpiredTokenException',
  'RequestExpired',
  'RequestTimeTooSkewed',
  'SignatureDoesNotMatch',
  'CredentialsProviderError',
  'TimeoutError',
]);

/** True when no hook waits for the instance: it is completed, has timed out, or was never reached. */
export function isNoAction(error: unknown): boolean {
  return error instanceof Error && /no active lifecycle action found/i.test(error.message);
}

/** What the SDK throws, as a PresyncError. */
export function groupError(action: string, error: unknown): PresyncError {
  if (error instanceof PresyncError) return error;
  const name = error instanceof Error ? error.name : '';
  const status = statusOf(error);
  const message = `Auto Scaling cannot be asked to ${action}: ${messageOf(error)}`;
  if (FORBIDDEN.has(name) || (status === 403 && !PASSING.has(name)))
    return new PresyncError('CLOUD_FORBIDDEN', message, { cause: error, hint: POLICY });
  if (name === 'CredentialsProviderError')
    return new PresyncError('CLOUD_FORBIDDEN', message, { cause: error, retryable: true, hint: POLICY });
  if (status === undefined)
    return new PresyncError('CLOUD_UNREACHABLE', message, {
      cause: error,
      retryable: true,
      hint: "check the instance's way to autoscaling.<region>.amazonaws.com: a NAT gateway, a VPC endpoint, or HTTPS_PROXY",
    });
  return new PresyncError('CLOUD_FAILED', message, {
    cause: error,
    retryable: PASSING.has(name) || status >= 500 || status === 429,
    hint: 'see the message of AWS',
  });
}

/** The HTTP status of an answer; undefined when there was none. */
function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('$metadata' in error)) return undefined;
  const { $metadata } = error;
  if (typeof $metadata !== 'object' || $metadata === null || !('httpStatusCode' in $metadata))
    return undefined;
  return typeof $metadata.httpStatusCode === 'number' ? $metadata.httpStatusCode : undefined;
}
