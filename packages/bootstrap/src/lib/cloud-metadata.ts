import * as http from 'node:http';
import { messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';

export interface MetadataCall {
  method?: 'GET' | 'PUT' | 'POST' | undefined;
  /** Below the base, with its query: `/latest/api/token`. */
  path: string;
  headers?: Readonly<Record<string, string>> | undefined;
  body?: string | undefined;
  /** Milliseconds for the whole answer. Default 2000. */
  timeoutMs?: number | undefined;
  /** What to do when there is no answer. */
  hint: string;
  signal: AbortSignal;
}

export interface MetadataAnswer {
  status: number;
  headers: http.IncomingHttpHeaders;
  text: string;
}

/** Asks one metadata service. */
export interface MetadataClient {
  /** Whatever status it has. Redirects are not followed. @throws PresyncError CLOUD_UNREACHABLE (retryable) */
  ask(call: MetadataCall): Promise<MetadataAnswer>;
  close(): void;
}

/** Where all three clouds have their metadata service, unless told otherwise: an address of the host, which nobody routes. */
export const METADATA_BASE = 'http://169.254.169.254';

/** The answers come from the host; one that takes longer is none. */
const TIMEOUT_MS = 2000;

/** The longest known answers are those of large scale sets, with some 100 kB. */
const MAX_TEXT_BYTES = 4 * 1024 ** 2;

/**
 * A client with an agent of its own, so that no proxy of the environment ever stands between: what metadata tells is about who asks, and
 * the clouds refuse what was forwarded.
 */
export function createMetadataClient(base: string): MetadataClient {
  // A connection a question: one that was kept may be closed just when it is used again.
  const agent = new http.Agent({ keepAlive: false, maxSockets: 16 });
  const root = base.replace(/\/+$/, '');

  return {
    async ask(call) {
      const { signal, timeoutMs = TIMEOUT_MS } = call;
      throwIfAborted(signal);
      const timeout = AbortSignal.timeout(timeoutMs);
      try {
        return await exchange(new URL(root + call.path), call, agent, AbortSignal.any([signal, timeout]));
      } catch (error) {
        throwIfAborted(signal);
        const reason = timeout.aborted ? `no answer within ${timeoutMs / 1000} s` : messageOf(error);
        throw new PresyncError(
          'CLOUD_UNREACHABLE',
          `the metadata service at ${root} cannot be asked for ${pathOf(call)}: ${reason}`,
          { cause: error, retryable: true, hint: call.hint },
        );
      }
    },

    close: () => agent.destroy(),
  };
}

function exchange(
  url: URL,
  { method = 'GET', headers = {}, body }: MetadataCall,
  agent: http.Agent,
  signal: AbortSignal,
): Promise<MetadataAnswer> {
  return new Promise((resolve, reject) => {
    const sent = http.request(url, { method, agent, signal, headers: { accept: '*/*', ...headers } });
    sent.on('error', reject);
    sent.on('response', (answer) => {
      textOf(answer).then(
        (text) => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text }),
        reject,
      );
    });
    sent.end(body);
  });
}

async function textOf(answer: http.IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of answer) {
    pieces.push(piece);
    size += piece.length;
    if (size > MAX_TEXT_BYTES) throw new RangeError(`an answer of more than ${MAX_TEXT_BYTES} bytes`);
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** An answer with a status, or a text, that has no meaning here. */
export function badAnswer(call: Pick<MetadataCall, 'path'>, what: string): PresyncError {
  return new PresyncError('CLOUD_FAILED', `the metadata service answers ${pathOf(call)} with ${what}`, {
    retryable: true,
    hint: 'this is tried again; when it lasts, see whether --cloud names the right cloud',
  });
}

/** Without the query, which says nothing to people. */
function pathOf({ path }: Pick<MetadataCall, 'path'>): string {
  return path.split('?')[0] ?? path;
}

/** The object or list in a JSON answer. */
export function jsonOf(call: Pick<MetadataCall, 'path'>, text: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw badAnswer(call, 'something that is not JSON');
  }
  if (typeof value !== 'object' || value === null) throw badAnswer(call, 'JSON of another form');
  return value;
}

/** A field of an object of unknown form. */
export function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

/** A field that is a text and not empty, or undefined. */
export function textFieldOf(value: unknown, name: string): string | undefined {
  const field = fieldOf(value, name);
  return typeof field === 'string' && field !== '' ? field : undefined;
}

/** The time in any of the forms that the clouds write, or undefined. */
export function timeOf(text: string | undefined): Date | undefined {
  const time = Date.parse(text ?? '');
  return Number.isNaN(time) ? undefined : new Date(time);
}
