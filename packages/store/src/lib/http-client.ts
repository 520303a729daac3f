import * as http from 'node:http';
import * as https from 'node:https';
import { throwIfAborted } from '@presync/runtime/errors';
import {
  type ClientIdentity,
  type ConnectionOptions,
  createAgents,
  DEFAULT_STALL_MS,
  StallError,
} from './agents.ts';
import { malformed, type StoreCall } from './answer-errors.ts';
import { notFound } from './calls.ts';
import { answerError, type Reply, requestError } from './http-errors.ts';

/** What a web server or peer wants to see. */
export interface HttpAccess extends ClientIdentity {
  /** Gives the `Authorization` header for an origin (`https://host:port`); it is sent nowhere else, also after a redirect. */
  authorization?: ((origin: string) => string | undefined) | undefined;
}

export interface HttpClientOptions extends Omit<ConnectionOptions, 'identity'> {
  access?: HttpAccess | undefined;
}

export interface AskOptions {
  headers?: Record<string, string> | undefined;
  /**
   * Take a body in whatever coding. Web servers give files that are compressed as they are, and call that a coding (Apache's
   * `AddEncoding x-gzip .gz`). Default false: an error.
   */
  anyCoding?: boolean | undefined;
}

/** Requests to web servers. `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured. */
export interface HttpClient {
  /** Milliseconds after which a connection that moves no byte is dead. */
  readonly stallMs: number;
  /**
   * Sends a HEAD or GET, as the call's action says, and follows redirects; anything but 200 and 206 is thrown. The caller reads the body
   * or destroys it.
   */
  ask(url: URL, call: StoreCall, options?: AskOptions): Promise<Reply>;
  /** Closes all connections. */
  close(): void;
}

/** Fetch's own limit is 20; a CDN needs one or two. */
const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { access = {} } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const agents = createAgents({ maxConnections: options.maxConnections, identity: access });

  function send(url: URL, call: StoreCall, headers: Record<string, string>): Promise<http.IncomingMessage> {
    const secure = url.protocol === 'https:';
    const authorization = access.authorization?.(url.origin);
    return new Promise((resolve, reject) => {
      const request = (secure ? https : http).request(url, {
        agent: agents[secure ? 'https:' : 'http:'],
        method: call.action === 'HEAD' ? 'HEAD' : 'GET',
        headers: {
          // A body in another coding has another length and other ranges.
          'accept-encoding': 'identity',
          'user-agent': 'presync',
          ...(authorization === undefined ? {} : { authorization }),
          ...headers,
        },
        timeout: stallMs,
        signal: AbortSignal.any([call.signal]),
      });
      request.on('timeout', () => request.destroy(new StallError(stallMs)));
      request.on('error', reject);
      request.on('response', resolve);
      request.end();
    });
  }

  return {
    stallMs,

    async ask(from, call, { headers = {}, anyCoding = false } = {}) {
      throwIfAborted(call.signal);
      let url = from;
      for (let hops = 0; ; hops++) {
        let answer: http.IncomingMessage;
        try {
          answer = await send(url, call, headers);
        } catch (error) {
          throw requestError(error, call);
        }
        const status = answer.statusCode ?? 0;
        const target = answer.headers.location;
        if (REDIRECTS.has(status) && target !== undefined) {
          answer.destroy();
          if (hops >= MAX_REDIRECTS) throw malformed(call, `more than ${MAX_REDIRECTS} redirects`);
          const next = redirected(url, target, call);
          // How web servers say that there is a folder of that name.
          if (next.origin === url.origin && next.pathname === `${url.pathname}/`)
            throw notFound(call.key, call.location);
          url = next;
          continue;
        }
        if (status !== 200 && status !== 206) throw answerError(answer, call);
        const coding = answer.headers['content-encoding'] ?? 'identity';
        if (coding !== 'identity' && !anyCoding) {
          answer.destroy();
          throw malformed(call, `a body in the coding ${coding}, which was not asked for`);
        }
        return replyOf(answer, status);
      }
    },

    close() {
      agents['http:'].destroy();
      agents['https:'].destroy();
    },
  };
}

function replyOf(answer: http.IncomingMessage, status: number): Reply {
  const { etag, 'last-modified': lastModified, 'content-range': contentRange } = answer.headers;
  const length = answer.headers['content-length'];
  return {
    status,
    etag,
    lastModified,
    contentRange,
    contentLength: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
    body: answer,
  };
}

function redirected(from: URL, target: string, call: StoreCall): URL {
  const to = URL.canParse(target, from) ? new URL(target, from) : undefined;
  if (to === undefined || !/^https?:$/.test(to.protocol))
    throw malformed(call, 'a redirect to no web address');
  if (from.protocol === 'https:' && to.protocol === 'http:')
    throw malformed(call, `a redirect from https to plain http (${to.host})`);
  if (to.username !== '' || to.password !== '') throw malformed(call, 'a redirect with a password in it');
  return to;
}
