import type { S3Client } from '@aws-sdk/client-s3';
import { messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { StoreNotice } from '../object-store.ts';
import { unlessAborted } from './abort.ts';
import { type ConnectionOptions, createAgents, DEFAULT_STALL_MS } from './agents.ts';
import { isAboutObject, isStaleCredentials, type S3Call, s3Error } from './s3-errors.ts';
import { type GivenSettings, type Lesson, lessonOf, namedRegion, type S3Settings } from './s3-lessons.ts';

export interface S3ConnectionOptions extends ConnectionOptions {
  /** Undefined: AWS. */
  endpoint: string | undefined;
  given: GivenSettings;
  onNotice?: ((notice: StoreNotice) => void) | undefined;
}

/** What `send` works with: a client, and how the server wants to be spoken to. */
export interface S3Attempt {
  client: S3Client;
  settings: Readonly<S3Settings>;
}

/** Sends calls with what is known of the server, and learns from its refusals. */
export interface S3Connection {
  /** True once an answer has proved that there is such a bucket. */
  readonly bucketSeen: boolean;
  /** What is known of the server by now. */
  readonly settings: Readonly<S3Settings>;
  /** The region that is asked although nobody named one; undefined when somebody did. */
  readonly assumedRegion: string | undefined;
  /**
   * What `send` resolves with, or its failure as the PresyncError of the contract. `send` may be called again, when a refusal tells that the
   * server wants to be spoken to in another way: it makes its command, and opens its body, anew each time.
   */
  run<T>(call: S3Call, send: (attempt: S3Attempt) => Promise<T>): Promise<T>;
  /** Tells it once. */
  notify(kind: StoreNotice['kind'], message: string): void;
  close(): void;
}

/** Time to open a connection, or `stallMs` when that is less. */
const CONNECT_MS = 10_000;

/** Where AWS answers for buckets of every region, with the right one's name. */
const FIRST_REGION = 'us-east-1';

const silent = (): void => undefined;

/** Every failure is thrown; the SDK would also print some, as that a stream cannot be sent again. */
const SILENT = { debug: silent, info: silent, warn: silent, error: silent };

/** A call is made once more for each setting that is found out, and once for a client that another call has replaced. */
const MAX_PASSES = 5;

/**
 * A connection to S3, on AWS or a server that speaks its protocol. Credentials come from the AWS SDK's usual chain (environment, profile, web
 * identity, container, instance role). The SDK's own retries are off. Nothing is sent yet.
 */
export async function createS3Connection(options: S3ConnectionOptions): Promise<S3Connection> {
  const sdk = await import('@aws-sdk/client-s3');
  const { NodeHttpHandler } = await import('@smithy/node-http-handler');
  const { endpoint, given } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const agents = createAgents(options);
  const requestHandler = new NodeHttpHandler({
    httpAgent: agents['http:'],
    httpsAgent: agents['https:'],
    connectionTimeout: Math.min(stallMs, CONNECT_MS),
    socketTimeout: stallMs,
    // Waiting for a socket is what maxConnections is for, and nothing to warn of.
    socketAcquisitionWarningTimeout: 2 ** 31 - 1,
  });
  const newClient = ({ region, pathStyle }: { region: string | undefined; pathStyle: boolean }): S3Client =>
    new sdk.S3Client({
      ...(region === undefined ? {} : { region }),
      ...(endpoint === undefined ? {} : { endpoint }),
      forcePathStyle: pathStyle,
      maxAttempts: 1,
      requestHandler,
      logger: SILENT,
      // Checksum trailers are unknown to R2, Spaces and others, and cost time; presync checks digests of its own.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      // With `Expect: 100-continue` the SDK opens a connection for each put.
      expectContinueHeader: false,
    });

  // Without the bucket in the path, a server other than AWS needs DNS that is made for it; AWS's own is.
  const pathStyle = given.pathStyle ?? endpoint !== undefined;
  const named = given.region ?? (await regionOfChain(newClient({ region: undefined, pathStyle }), endpoint));
  const settings: S3Settings = {
    region: named ?? FIRST_REGION,
    pathStyle,
    checksums: given.checksums ?? false,
  };
  let current: S3Attempt = { client: newClient(settings), settings };
  let bucketSeen = false;
  const told = new Set<string>();

  function notify(kind: StoreNotice['kind'], message: string): void {
    if (told.has(message)) return;
    told.add(message);
    options.onNotice?.({ kind, message });
  }

  function adopt(next: S3Attempt, { notice }: Lesson): void {
    current = next;
    notify('settings', notice);
  }

  const taught = ({ settings }: S3Attempt, lesson: Lesson): S3Attempt => {
    const changed = { ...settings, ...lesson.settings };
    return { client: newClient(changed), settings: changed };
  };

  async function send<T>(
    call: S3Call,
    attempt: S3Attempt,
    work: (attempt: S3Attempt) => Promise<T>,
  ): Promise<T> {
    throwIfAborted(call.signal);
    // The chain of credentials does not know the signal.
    const answer = await unlessAborted(work(attempt), call.signal);
    bucketSeen ||= answer !== undefined;
    return answer;
  }

  return {
    get bucketSeen() {
      return bucketSeen;
    },
    get settings() {
      return current.settings;
    },
    assumedRegion: named === undefined && endpoint === undefined ? FIRST_REGION : undefined,
    notify,

    async run(call, work) {
      for (let pass = 1; ; pass++) {
        const used = current;
        try {
          return await send(call, used, work);
        } catch (error) {
          const fail = (): PresyncError => {
            const region = namedRegion(error);
            return s3Error(error, call, region === used.settings.region ? {} : { region });
          };
          const lesson = lessonOf(error, call, {
            given,
            endpoint,
            settings: used.settings,
            settled: bucketSeen,
          });
          bucketSeen ||= isAboutObject(error);
          if (lesson === undefined || pass >= MAX_PASSES) {
            // A new client asks the chain for credentials anew; the sockets are shared. One call does so for all that failed with it.
            if (isStaleCredentials(error, call) && used === current)
              current = { ...used, client: newClient(used.settings) };
            throw fail();
          }
          // Another call has drawn the lesson already.
          if (used !== current) continue;
          const next = taught(used, lesson);
          if (!lesson.guess) {
            adopt(next, lesson);
            continue;
          }
          try {
            const answer = await send(call, next, work);
            if (answer !== undefined) adopt(next, lesson);
            return answer;
          } catch (second) {
            if (!isAboutObject(second)) throw fail();
            bucketSeen = true;
            adopt(next, lesson);
            throw s3Error(second, call);
          }
        }
      }
    },

    close() {
      current.client.destroy();
      requestHandler.destroy();
    },
  };
}

/** Undefined when neither the environment nor the profile names one. Servers other than AWS mostly take any. */
async function regionOfChain(client: S3Client, endpoint: string | undefined): Promise<string | undefined> {
  if (endpoint !== undefined && process.env.AWS_REGION === undefined && process.env.AWS_PROFILE === undefined)
    return undefined;
  try {
    return await client.config.region();
  } catch (error) {
    if (/region is missing/i.test(messageOf(error))) return undefined;
    throw new PresyncError(
      'STORE_URL_INVALID',
      `the region of the bucket is not known: ${messageOf(error)}`,
      {
        cause: error,
        hint: 'add ?region=… to the store URL, or set AWS_REGION',
      },
    );
  }
}
