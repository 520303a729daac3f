import type { RestError } from '@azure/storage-blob';
import { errnoOf, messageOf, PresyncError } from '@presync/runtime/errors';
import {
  type AnswerFacts,
  abortOf,
  clockOff,
  clockText,
  field,
  lostCondition,
  malformed,
  messageFor,
  retryAfter,
  type StoreCall,
  storeFailed,
  unknownFailure,
} from './answer-errors.ts';
import type { AzureAccess } from './azure-access.ts';
import { TokenError } from './azure-token.ts';
import { notFound, wasChanged } from './calls.ts';

/** What was asked of Azure. */
export interface AzureCall extends StoreCall {
  account: string;
  container: string;
  access: Pick<AzureAccess, 'means' | 'redact'>;
}

interface AzureFacts extends AnswerFacts {
  /** Why the call was not authorised. It may quote what was signed and the signature, so it is not repeated. */
  detail: string;
  /** The store's clock minus this machine's, in milliseconds; 0 when the answer does not tell. */
  clockOffMs: number;
}

/** A signature is good for 15 minutes around its time (https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key). */
const CLOCK_TOLERANCE_MS = 14 * 60_000;

/** Passing troubles, whatever the HTTP status. */
const TRANSIENT = new Set([
  'Md5Mismatch',
  'OperationTimedOut',
  'ServerBusy',
  'InternalError',
  // Another writer of the same key has put its own object, and with it thrown away the blocks of this one.
  'InvalidBlockList',
]);

/** Refusals that no retry will lift, and what to do. */
const FINAL: Readonly<Record<string, string>> = {
  BlobArchived:
    'the object was moved to the archive tier: rehydrate it, and take the lifecycle rule off this prefix',
  BlobBeingRehydrated:
    'the object is on its way back from the archive tier: wait until it is, which takes hours',
  BlobImmutableDueToPolicy:
    'an immutability policy or legal hold forbids it: presync replaces and removes objects, so give it a container without one',
  SnapshotsPresent: 'the blob has snapshots, which presync does not make: delete them, or what makes them',
  InvalidBlobType: 'the blob is no block blob, so something other than presync has made it: remove it',
  ResourceTypeMismatch: 'the key is a folder: something other than presync has made it',
  InvalidHeaderValue:
    'the server does not know a header that was sent: use a newer version of it; azurite also has --skipApiVersionCheck',
};

/** Turns whatever the SDK threw into the PresyncError of the contract. */
export function azureError(thrown: unknown, call: AzureCall): PresyncError {
  if (thrown instanceof PresyncError) return thrown;
  const aborted = abortOf(call);
  if (aborted !== undefined) return aborted;
  if (thrown instanceof TokenError) return tokenFailure(thrown, call);
  const facts = factsOf(thrown);
  // The SDK's error holds the request, and with it the SAS token or Authorization header.
  const error = withoutRequest(thrown, call, facts);
  const code = errnoOf(error) ?? '';
  return (
    unreadable(thrown, call, facts) ??
    conditionError(error, call, facts) ??
    refusal(error, call, facts) ??
    unknownFailure(error, call, facts, {
      // HPE: what came is not HTTP.
      transient: TRANSIENT.has(facts.name) || code.startsWith('HPE_') || code === 'ERR_OTHER_ANSWER',
      api: 'that of Azure Blob Storage',
    })
  );
}

/** True when another token may help. */
export function isStaleToken(thrown: unknown): boolean {
  return isRestError(thrown) && thrown.statusCode === 401 && !isForeignToken(factsOf(thrown));
}

/** An answer that the SDK could not make sense of: it says so by errors of these kinds. */
function unreadable(thrown: unknown, call: AzureCall, { status }: AzureFacts): PresyncError | undefined {
  if (thrown instanceof RangeError) return malformed(call, 'no Content-Length or no ETag, or too much');
  if (thrown instanceof TypeError && call.action === 'LIST')
    return malformed(call, 'something other than a listing');
  const good = status !== undefined && status >= 200 && status < 300;
  return good ? malformed(call, `${status} and a body that cannot be read`) : undefined;
}

function conditionError(error: Error, call: AzureCall, facts: AzureFacts): PresyncError | undefined {
  const { condition, key, location } = call;
  const { name, status } = facts;
  if (condition === undefined) return undefined;
  // Leases are refused by 412 too.
  if (name === 'ConditionNotMet' || (status === 412 && name === ''))
    return lostCondition(call, condition, error);
  if ('ifAbsent' in condition) {
    // A SAS token that may create and not overwrite: the 403 says that there is something to overwrite.
    if (name === 'BlobAlreadyExists' || name === 'UnauthorizedBlobOverwrite')
      return lostCondition(call, condition, error);
  } else if (name === 'BlobNotFound') {
    return wasChanged(key, location, error);
  }
  if (status === 501) {
    return new PresyncError('STORE_NO_CONDITIONAL_WRITES', `${location} does not know conditional puts`, {
      cause: error,
      hint: 'publish to a store that honours If-Match and If-None-Match on Put Blob; this one can only be read from',
    });
  }
  return undefined;
}

function refusal(error: Error, call: AzureCall, facts: AzureFacts): PresyncError | undefined {
  const { name, status } = facts;
  if (name === 'ContainerNotFound' || name === 'ContainerBeingDeleted') {
    const what = name === 'ContainerNotFound' ? 'does not exist' : 'is being deleted';
    return new PresyncError(
      'STORE_NOT_FOUND',
      `the container ${call.container} of ${call.location} ${what}`,
      {
        cause: error,
        hint: 'look at the account, the container and the endpoint in the store URL; presync makes no containers',
      },
    );
  }
  if (name === 'BlobNotFound') return notFound(call.key, call.location, error);
  if (name.startsWith('Lease')) {
    return storeFailed(error, call, facts, {
      retryable: true,
      hint: 'something other than presync holds a lease: end it with az storage blob lease break, or container lease break',
    });
  }
  const hint = Object.hasOwn(FINAL, name) ? FINAL[name] : undefined;
  if (hint !== undefined) return storeFailed(error, call, facts, { hint });
  if (status === 405) {
    const writing = call.action === 'PUT' || call.action === 'DELETE';
    return new PresyncError(writing ? 'STORE_READ_ONLY' : 'STORE_FAILED', messageFor(error, call, facts), {
      cause: error,
      hint: 'this endpoint does not allow the method: name the blob endpoint of the account, not its website',
    });
  }
  return authorisation(error, call, facts);
}

function authorisation(error: Error, call: AzureCall, facts: AzureFacts): PresyncError | undefined {
  const { name, status } = facts;
  if (status !== 401 && status !== 403 && name !== 'PublicAccessNotPermitted') return undefined;
  if (isSkewed(call, facts)) {
    return storeFailed(error, call, facts, {
      retryable: true,
      hint: `set this machine's clock (timedatectl, chrony)${facts.clockOffMs === 0 ? '' : `: it is ${clockText(facts.clockOffMs)}`}`,
    });
  }
  if (status === 401 && call.access.means === 'identity' && !isForeignToken(facts)) {
    return storeFailed(error, call, facts, {
      retryable: true,
      hint: "the access token is no longer good, and a new one is asked for; if it goes on, look at this machine's clock",
    });
  }
  return new PresyncError('STORE_FORBIDDEN', messageFor(error, call, facts), {
    cause: error,
    hint: permissionHint(call, facts),
  });
}

/** Of signed requests only: the time of other ones is not looked at. */
function isSkewed({ access }: AzureCall, { name, detail, clockOffMs }: AzureFacts): boolean {
  if (access.means !== 'key' || name !== 'AuthenticationFailed') return false;
  return /date header/i.test(detail) || Math.abs(clockOffMs) > CLOCK_TOLERANCE_MS;
}

/** A token that is good, but not here. Others like it will not be either. */
function isForeignToken({ detail }: Pick<AzureFacts, 'detail'>): boolean {
  return /\b(?:issuer|audience)\b/i.test(detail);
}

function permissionHint({ access, account, action }: AzureCall, { name, detail }: AzureFacts): string {
  if (name === 'KeyBasedAuthenticationNotPermitted') {
    return 'the account allows no keys: unset AZURE_STORAGE_CONNECTION_STRING and AZURE_STORAGE_KEY, and give presync an identity';
  }
  if (name === 'AuthorizationFailure' || name === 'AuthorizationSourceIPMismatch') {
    return `look at whether the network rules of the account ${account} let this machine in`;
  }
  if (access.means === 'key')
    return `look at whether the key is that of the account ${account}, and not an old one`;
  if (access.means === 'sas') {
    const times = /Start \[[^\]]*\] - Expiry \[[^\]]*\] - Current \[[^\]]*\]/i.exec(detail)?.[0];
    if (times !== undefined) return `the SAS token is not good at this time (${times}): make a new one`;
    const permission = { HEAD: 'r', GET: 'r', PUT: 'c and w', DELETE: 'd', LIST: 'l' }[action];
    return `make a SAS token of the account or container with the permission ${permission}, or look at whether it was changed`;
  }
  if (isForeignToken({ detail })) {
    return `the identity is of another tenant than the account ${account}: use one of its tenant, or set AZURE_TENANT_ID`;
  }
  const role = action === 'PUT' || action === 'DELETE' ? 'Contributor' : 'Reader';
  return `grant the identity the role Storage Blob Data ${role} on the container, which takes some minutes to work, and look at the network rules of the account`;
}

function tokenFailure(error: TokenError, call: AzureCall): PresyncError {
  const message = call.access.redact(error.message);
  const cause = new Error(message);
  if (error.passing) {
    return new PresyncError(
      'STORE_UNREACHABLE',
      `no access token for ${call.location} (${call.action} ${call.key || '/'}): ${message}`,
      {
        cause,
        retryable: true,
        hint: 'look at whether this machine reaches its identity endpoint or login.microsoftonline.com',
      },
    );
  }
  return new PresyncError(
    'STORE_FORBIDDEN',
    `no credentials for ${call.location} (${call.action} ${call.key || '/'}): ${message}`,
    {
      cause,
      hint: 'give the machine a managed identity (with AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential only that is tried), set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, run az login, or set AZURE_STORAGE_SAS_TOKEN',
    },
  );
}

/** The same failure, with a text that may be read. Its name is the store's code, where there is one. */
function withoutRequest(thrown: unknown, { access }: AzureCall, { name }: AzureFacts): Error {
  const id = isRestError(thrown) ? thrown.response?.headers.get('x-ms-request-id') : undefined;
  const [line = ''] = messageOf(thrown).split(/\r?\n/);
  const text = `${line.slice(0, 300)}${id === undefined ? '' : ` (request ${id})`}`.trim();
  const error = new Error(access.redact(text));
  if (name !== '') error.name = name;
  else if (thrown instanceof Error) error.name = thrown.name;
  const code = isRestError(thrown) ? undefined : errnoOf(thrown);
  return code === undefined ? error : Object.assign(error, { code });
}

/** As the SDK's own `isRestError`, which is not to be had without loading the SDK. */
function isRestError(error: unknown): error is RestError {
  return error instanceof Error && error.name === 'RestError';
}

function factsOf(thrown: unknown): AzureFacts {
  if (!isRestError(thrown))
    return { name: '', status: undefined, retryAfterMs: undefined, detail: '', clockOffMs: 0 };
  const { statusCode, response, code = '' } = thrown;
  // The answer to a HEAD has no body: the header has the code.
  const named = response?.headers.get('x-ms-error-code') ?? code;
  const detail = field(field(response, 'parsedBody'), 'authenticationErrorDetail');
  return {
    name: /^[A-Z][A-Za-z0-9]+$/.test(named) ? named : '',
    status: statusCode,
    retryAfterMs: retryAfter(response?.headers.get('retry-after')),
    detail: typeof detail === 'string' ? detail : '',
    clockOffMs: clockOff(response?.headers.get('date')) ?? 0,
  };
}
