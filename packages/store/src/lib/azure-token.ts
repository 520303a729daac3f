import type { AccessToken, GetTokenOptions, TokenCredential } from '@azure/identity';

export interface TokenSource extends TokenCredential {
  /** Lets go of a token that was there at `since` (milliseconds), and of the credential that gave it: the store refused it. */
  renew(since: number): void;
}

/** Why there is no token. */
export class TokenError extends Error {
  override readonly name = 'TokenError';
  /** True when the same question may be answered later. */
  readonly passing: boolean;

  constructor(message: string, passing: boolean) {
    super(message);
    this.passing = passing;
  }
}

/** How long before its end a token is renewed, where its issuer does not say. */
const RENEW_MS = 5 * 60_000;
/** While a token still works, a new one is asked for no more often than this: Azure CLI is a process of its own each time. */
const ASK_AGAIN_MS = 30_000;
/** A token that ends sooner may end on its way to the store. */
const MARGIN_MS = 10_000;

/**
 * Keeps the token of a credential, and renews it before it ends, while the old one serves. What goes wrong with the renewal is told
 * only when the old one has ended. An answer that takes longer than `maxMs` has failed.
 *
 * The SDK keeps tokens too, but renews them with attempts of its own that nobody waits for: the last failure of those is an
 * unhandled rejection, which ends the process. A token that is always told as ended keeps it from that.
 */
export function createTokenSource(newCredential: () => TokenCredential, maxMs: number): TokenSource {
  let credential = newCredential();
  let tenant: string | undefined;
  let worked = false;
  let held: { token: AccessToken; since: number; renewAt: number } | undefined;
  let asked: Promise<AccessToken> | undefined;

  async function ask(scopes: string | string[], options: GetTokenOptions): Promise<AccessToken> {
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), maxMs);
    try {
      const token = await unlessFired(
        credential.getToken(scopes, {
          ...options,
          abortSignal: limit.signal,
          ...(tenant === undefined ? {} : { tenantId: tenant }),
        }),
        limit.signal,
      );
      if (token === null) throw new TokenError('no credential of the chain gave one', false);
      const now = Date.now();
      const renewAt = token.refreshAfterTimestamp ?? token.expiresOnTimestamp - RENEW_MS;
      held = { token, since: now, renewAt: Math.max(renewAt, now + ASK_AGAIN_MS) };
      worked = true;
      return token;
    } catch (error) {
      if (limit.signal.aborted) throw new TokenError(`no answer within ${maxMs / 1000} s`, true);
      if (error instanceof TokenError) throw error;
      throw new TokenError(textOf(error), worked || isPassing(error));
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    async getToken(scopes, options = {}) {
      const { tenantId, claims } = options;
      // Both come from an answer of the store that asks for another token than the one that it got.
      if (claims !== undefined || (tenantId !== undefined && tenantId !== tenant)) held = undefined;
      tenant = tenantId ?? tenant;
      const now = Date.now();
      if (held !== undefined && now >= held.token.expiresOnTimestamp - MARGIN_MS) held = undefined;
      if (held !== undefined && now < held.renewAt) return ended(held.token);
      asked ??= ask(scopes, options).finally(() => {
        asked = undefined;
      });
      if (held === undefined) return ended(await asked);
      asked.catch(() => undefined);
      held.renewAt = now + ASK_AGAIN_MS;
      return ended(held.token);
    },

    renew(since) {
      if (held === undefined || held.since > since) return;
      held = undefined;
      credential = newCredential();
    },
  };
}

function ended(token: AccessToken): AccessToken {
  return { ...token, expiresOnTimestamp: 0 };
}

/** Not every credential knows the signal. */
function unlessFired<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}

/** What a failure of the chain says: the beginning of what each link does. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const links: unknown[] = 'errors' in error && Array.isArray(error.errors) ? error.errors : [];
  if (links.length > 0) return [...new Set(links.map(textOf))].join('; ');
  return error.message
    .replaceAll(/To troubleshoot, visit \S+/g, '')
    .replaceAll(/\s+/g, ' ')
    .trim()
    .slice(0, 250);
}

const PASSING_TEXT =
  /\b(?:E(?:CONNREFUSED|CONNRESET|NOTFOUND|AI_AGAIN|TIMEDOUT|PIPE|HOSTUNREACH|NETUNREACH)|network_error|endpoints_resolution_error|server_error|temporarily_unavailable|AADSTS90033)\b|network unreachable|status code: (?:429|5\d\d)/i;

/**
 * True for a failure of the network or of the issuer. Links of the chain wrap such failures as if they were not configured, some with
 * the text only. IMDS answers 404 and 410 while a machine's identity is being set up.
 */
function isPassing(error: unknown, depth = 0): boolean {
  if (!(error instanceof Error) || depth > 5) return false;
  const status = numberOf(error, 'status') ?? numberOf(error, 'statusCode') ?? 0;
  if ([404, 408, 410, 429].includes(status) || status >= 500) return true;
  if (PASSING_TEXT.test(error.message) || ('code' in error && PASSING_TEXT.test(String(error.code))))
    return true;
  const links: unknown[] = 'errors' in error && Array.isArray(error.errors) ? error.errors : [];
  return [error.cause, ...links].some((inner) => isPassing(inner, depth + 1));
}

function numberOf(error: Error, name: string): number | undefined {
  const value: unknown = Reflect.get(error, name);
  return typeof value === 'number' ? value : undefined;
}
