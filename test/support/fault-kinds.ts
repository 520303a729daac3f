/** What a fault proxy does to requests and to their answers, and in which words each store refuses. */

/** How a server tells its errors. */
export type Dialect = 's3' | 'azure' | 'gcs' | 'web';

/** What tells which faults a request can meet. */
export interface Asked {
  method: string;
  /** Without its query. */
  path: string;
  ranged: boolean;
  /** Bytes of its body, as announced. */
  bodyLength: number;
}

export interface Answer {
  status: number;
  /** Names and values in turn, as they came; none that is about the connection. */
  headers: readonly string[];
  body: Buffer;
}

interface Rule {
  /** `request`: instead of asking the server. `answer`: after the server has done what was asked. */
  at: 'request' | 'answer';
  may?: (asked: Asked) => boolean;
  fits?: (answer: Answer, asked: Asked) => boolean;
}

const hasBody = ({ body }: Answer, { method }: Asked): boolean => method !== 'HEAD' && body.length > 1;
const isSuccess = ({ status }: Answer): boolean => status >= 200 && status < 300;
const isRanged = ({ ranged }: Asked): boolean => ranged;

const RULES = {
  /** The connection is reset when the head of the request has come. */
  'reset-before': { at: 'request' },
  /** In the middle of the request's body. */
  'reset-in-request': { at: 'request', may: ({ bodyLength }) => bodyLength > 1 },
  /** No answer ever comes. */
  'stall-before': { at: 'request' },
  'too-many': { at: 'request' },
  /** With a Retry-After. */
  'too-many-wait': { at: 'request' },
  unavailable: { at: 'request' },
  'unavailable-wait': { at: 'request' },
  'expired-token': { at: 'request' },
  /** The request was carried out, and the answer is a 500. */
  'internal-error': { at: 'answer' },
  /** The request was carried out, and the connection is reset in place of an answer. */
  'lost-answer': { at: 'answer' },
  'stall-after': { at: 'answer' },
  'reset-in-answer': { at: 'answer', fits: hasBody },
  'stall-in-answer': { at: 'answer', fits: hasBody },
  /** The body ends early by an orderly close. */
  'short-closed': { at: 'answer', fits: hasBody },
  /** Half of the body, and a head that says that this is all. */
  'short-whole': { at: 'answer', fits: hasBody },
  /** A few KB a second for a while. */
  slow: {
    at: 'answer',
    may: ({ method }) => method === 'GET',
    fits: (answer, asked) => hasBody(answer, asked) && answer.body.length >= 1024,
  },
  'wrong-etag': { at: 'answer', fits: (answer) => isSuccess(answer) && withOtherTag(answer) !== undefined },
  /** A part that begins later than the one that was asked for, and says so. */
  'wrong-range': { at: 'answer', may: isRanged, fits: (answer) => laterPart(answer) !== undefined },
  /** 200 and the whole object. */
  'whole-for-range': { at: 'answer', may: isRanged, fits: (answer) => asWhole(answer) !== undefined },
  /** The answer comes twice; the second may be taken for that to the next request. */
  duplicate: { at: 'answer' },
  /** The answer to an earlier request of the same method, and of the right status. */
  'another-answer': { at: 'answer' },
  /** Two requests get each other's answers. */
  swapped: { at: 'answer' },
} as const satisfies Record<string, Rule>;

export type FaultKind = keyof typeof RULES;

export const FAULT_KINDS = Object.keys(RULES).filter((name): name is FaultKind => Object.hasOwn(RULES, name));

const ruleOf = (kind: FaultKind): Rule => RULES[kind];

/** True when such a request can meet the fault, as far as that is known before it is answered. */
export function mayMeet(kind: FaultKind, asked: Asked): boolean {
  return ruleOf(kind).may?.(asked) ?? true;
}

/** True for what is done to an answer, and can be done to this one. */
export function fitsAnswer(kind: FaultKind, answer: Answer, asked: Asked): boolean {
  const { at, fits } = ruleOf(kind);
  return at === 'answer' && mayMeet(kind, asked) && (fits?.(answer, asked) ?? true);
}

export function strikesAnswer(kind: FaultKind): boolean {
  return ruleOf(kind).at === 'answer';
}

export function headerOf({ headers }: Pick<Answer, 'headers'>, name: string): string | undefined {
  for (let at = 0; at < headers.length; at += 2)
    if (headers[at]?.toLowerCase() === name) return headers[at + 1];
  return undefined;
}

/** With that header in place of the one there was; without it when there is no value. */
function withHeader(headers: readonly string[], name: string, value: string | undefined): string[] {
  const kept: string[] = [];
  for (let at = 0; at < headers.length; at += 2) {
    const [key = '', old = ''] = headers.slice(at, at + 2);
    if (key.toLowerCase() !== name) kept.push(key, old);
  }
  return value === undefined ? kept : [...kept, name, value];
}

function withBody(answer: Answer, body: Buffer): Answer {
  return { ...answer, headers: withHeader(answer.headers, 'content-length', String(body.length)), body };
}

/** Half of the body, with a head that fits it. */
export function shortened(answer: Answer): Answer {
  return withBody(answer, answer.body.subarray(0, answer.body.length >> 1));
}

/** The same with another version of the object: another ETag, another generation. */
export function withOtherTag(answer: Answer): Answer | undefined {
  let { headers } = answer;
  let body = answer.body;
  let changed = false;
  for (const name of ['etag', 'x-goog-generation']) {
    const value = headerOf({ headers }, name);
    const other = value === undefined ? undefined : otherDigit(value);
    if (other === undefined) continue;
    headers = withHeader(headers, name, other);
    changed = true;
  }
  const type = headerOf(answer, 'content-type') ?? '';
  if (type.startsWith('application/json') && body.includes('"generation"')) {
    const text = body.toString();
    const other = text.replace(
      /("generation"\s*:\s*")(\d+)/,
      (_, before, digits) => before + otherDigit(digits),
    );
    changed ||= other !== text;
    body = Buffer.from(other);
  }
  return changed ? { ...answer, headers, body } : undefined;
}

/** The text with its last digit changed. */
function otherDigit(text: string): string | undefined {
  const at = text.search(/\d(?=\D*$)/);
  if (at === -1) return undefined;
  return `${text.slice(0, at)}${(Number(text[at]) + 1) % 10}${text.slice(at + 1)}`;
}

function partOf(answer: Answer): { start: number; end: number; size: number } | undefined {
  const found = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headerOf(answer, 'content-range') ?? '');
  if (answer.status !== 206 || found === null) return undefined;
  const [start = 0, end = 0, size = 0] = found.slice(1).map(Number);
  return { start, end, size };
}

/** All but the first byte of a part, which says that it is that. */
export function laterPart(answer: Answer): Answer | undefined {
  const part = partOf(answer);
  if (part === undefined || answer.body.length < 2) return undefined;
  const range = `bytes ${part.start + 1}-${part.end}/${part.size}`;
  return withBody(
    { ...answer, headers: withHeader(answer.headers, 'content-range', range) },
    answer.body.subarray(1),
  );
}

/** A part that is all of the object, as the 200 of who asked for no part. */
export function asWhole(answer: Answer): Answer | undefined {
  const part = partOf(answer);
  if (part === undefined || part.start !== 0 || part.end !== part.size - 1) return undefined;
  return { ...answer, status: 200, headers: withHeader(answer.headers, 'content-range', undefined) };
}

const STATUS = {
  'too-many': 429,
  'too-many-wait': 429,
  unavailable: 503,
  'unavailable-wait': 503,
  'internal-error': 500,
} as const;

const CODES: Record<Dialect, Record<429 | 500 | 503, string>> = {
  s3: { 429: 'TooManyRequests', 500: 'InternalError', 503: 'SlowDown' },
  azure: { 429: 'TooManyRequests', 500: 'InternalError', 503: 'ServerBusy' },
  gcs: { 429: 'rateLimitExceeded', 500: 'internalError', 503: 'backendError' },
  web: { 429: 'Too Many Requests', 500: 'Internal Server Error', 503: 'Service Unavailable' },
};

const CHALLENGE =
  'Bearer authorization_uri=https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/oauth2/authorize resource_id=https://storage.azure.com';

/** How stores say that a token has expired: status, code, and what goes with it. */
const EXPIRED: Record<Dialect, [number, string, string[]]> = {
  s3: [400, 'ExpiredToken', []],
  azure: [401, 'InvalidAuthenticationInfo', ['www-authenticate', CHALLENGE]],
  gcs: [
    401,
    'authError',
    ['www-authenticate', 'Bearer realm="https://accounts.google.com/", error="invalid_token"'],
  ],
  web: [401, 'Unauthorized', ['www-authenticate', 'Bearer']],
};

export type Refusal = keyof typeof STATUS | 'expired-token';

export function isRefusal(kind: FaultKind): kind is Refusal {
  return kind === 'expired-token' || kind in STATUS;
}

/** The answer of a store that does not do what it is asked. */
export function refusal(kind: Refusal, dialect: Dialect): Answer {
  if (kind === 'expired-token') return told(dialect, ...EXPIRED[dialect]);
  const status = STATUS[kind];
  const wait = kind.endsWith('-wait') ? ['retry-after', '1'] : [];
  return told(dialect, status, CODES[dialect][status], wait);
}

function told(dialect: Dialect, status: number, code: string, more: readonly string[]): Answer {
  const message = 'The proxy says so.';
  const texts: Record<Dialect, [string, string]> = {
    s3: [
      'application/xml',
      `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`,
    ],
    azure: [
      'application/xml',
      `\uFEFF<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`,
    ],
    gcs: [
      'application/json; charset=UTF-8',
      JSON.stringify({
        error: { code: status, message, errors: [{ message, domain: 'global', reason: code }] },
      }),
    ],
    web: ['text/html', `<html><body>${code}<br></body></html>`],
  };
  const [type, text] = texts[dialect];
  const body = Buffer.from(text);
  const named = dialect === 'azure' ? ['x-ms-error-code', code] : [];
  return {
    status,
    headers: ['content-type', type, 'content-length', String(body.length), ...named, ...more],
    body,
  };
}
