/**
 * Sends what a run did, and when, as one trace: OTLP over HTTP, in its JSON form (opentelemetry-proto, `docs/specification.md`). A run has some ten
 * spans, which are known when it ends, so one request says it all and nothing of OpenTelemetry's own libraries is needed.
 */
import { randomBytes } from 'node:crypto';
import { messageOf } from './errors.ts';

export type SpanAttributes = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Span {
  name: string;
  /** Milliseconds since 1970. */
  began: number;
  seconds: number;
  attributes?: SpanAttributes | undefined;
}

export interface Trace extends Span {
  /** Why it failed, when it did. */
  failure?: string | undefined;
  children: readonly Span[];
}

export interface Tracer {
  /** Resolves when it is sent, or cannot be; never rejects. */
  send(trace: Trace, options: { signal: AbortSignal }): Promise<void>;
}

export interface TracerOptions {
  /** Such as `http://127.0.0.1:4318`; `/v1/traces` is added unless it is there. */
  url: string;
  service: string;
  version: string;
  onProblem: (reason: string) => void;
}

const TIMEOUT_MS = 10_000;

/** SPAN_KIND_INTERNAL, STATUS_CODE_OK and STATUS_CODE_ERROR of the protocol. */
const INTERNAL = 1;
const OK = 1;
const ERROR = 2;

export function createTracer({ url, service, version, onProblem }: TracerOptions): Tracer {
  const target = new URL(url);
  if (!target.pathname.endsWith('/v1/traces'))
    target.pathname = `${target.pathname.replace(/\/$/, '')}/v1/traces`;
  return {
    send: async (trace, { signal }) => {
      const document = {
        resourceSpans: [
          {
            resource: { attributes: attributesOf({ 'service.name': service, 'service.version': version }) },
            scopeSpans: [{ scope: { name: 'presync', version }, spans: spansOf(trace) }],
          },
        ],
      };
      try {
        const response = await fetch(target, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(document),
          signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
        });
        await response.body?.cancel();
        if (!response.ok) onProblem(`${target.origin} answers with status ${response.status}`);
      } catch (error) {
        onProblem(`${target.origin}: ${messageOf(error)}`);
      }
    },
  };
}

function spansOf({ failure, children, ...root }: Trace): object[] {
  const traceId = randomBytes(16).toString('hex');
  const parentSpanId = randomBytes(8).toString('hex');
  return [
    {
      ...spanOf(root, traceId, parentSpanId),
      status: failure === undefined ? { code: OK } : { code: ERROR, message: failure },
    },
    ...children.map((child) => ({ ...spanOf(child, traceId, randomBytes(8).toString('hex')), parentSpanId })),
  ];
}

function spanOf({ name, began, seconds, attributes }: Span, traceId: string, spanId: string): object {
  return {
    ...{ traceId, spanId, name, kind: INTERNAL },
    startTimeUnixNano: nanoseconds(began),
    endTimeUnixNano: nanoseconds(began + seconds * 1000),
    attributes: attributesOf(attributes ?? {}),
  };
}

/** 64-bit numbers are text in JSON. */
function nanoseconds(milliseconds: number): string {
  return String(BigInt(Math.round(milliseconds * 1000)) * 1000n);
}

function attributesOf(attributes: SpanAttributes): object[] {
  return Object.entries(attributes)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([key, value]) => ({ key, value: anyValue(value) }));
}

function anyValue(value: unknown): object {
  if (typeof value === 'boolean') return { boolValue: value };
  if (typeof value !== 'number') return { stringValue: String(value) };
  return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}
