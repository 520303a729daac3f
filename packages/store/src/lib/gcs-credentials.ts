import { unlessAborted } from './abort.ts';
import { credentialsError, type GcsCall } from './gcs-errors.ts';

/** The part of the SDK's GoogleAuth that is used. It keeps a token until shortly before it expires. */
export interface AuthSource {
  getRequestHeaders(url: string): Promise<Headers>;
}

/** The right to make a request. */
export interface Lease {
  headers: Record<string, string>;
  /** Values that no message may repeat. */
  secrets: readonly string[];
  /** To be told of a 401: the next lease is of credentials that were looked up anew. */
  refused(): void;
}

export interface Credentials {
  lease(call: GcsCall): Promise<Lease>;
}

const NONE: Lease = { headers: {}, secrets: [], refused: () => undefined };

/** For servers that want no credentials. */
export const ANONYMOUS: Credentials = { lease: async () => NONE };

/**
 * Credentials from sources that `newSource` makes. A source whose token is refused, or that gives none within
 * `stallMs`, is given up for a new one, which reads credential files and asks the metadata server again.
 */
export function createCredentials(
  newSource: () => AuthSource,
  { url, stallMs }: { url: string; stallMs: number },
): Credentials {
  let source = newSource();
  // Of the many calls that a dead token fails at a time, the first one replaces it.
  const giveUp = (failed: AuthSource): void => {
    if (source === failed) source = newSource();
  };

  return {
    async lease(call) {
      const asked = source;
      let found: Headers;
      try {
        found = await unlessAborted(inTime(asked.getRequestHeaders(url), stallMs), call.signal);
      } catch (error) {
        if (!call.signal.aborted) giveUp(asked);
        throw credentialsError(error, call);
      }
      const token = found.get('authorization')?.replace(/^\w+\s+/, '');
      return {
        headers: Object.fromEntries(found),
        secrets: token === undefined || token === '' ? [] : [token],
        refused: () => giveUp(asked),
      };
    },
  };
}

function inTime<T>(promise: Promise<T>, stallMs: number): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const late = Object.assign(new Error(`no answer within ${stallMs / 1000} s`), { name: 'TimeoutError' });
    const timer = setTimeout(() => reject(late), stallMs);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
