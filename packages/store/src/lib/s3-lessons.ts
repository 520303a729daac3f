import { messageOf, PresyncError } from '@presync/runtime/errors';
import { field } from './answer-errors.ts';
import { factsOf, headerOf, type S3Call } from './s3-errors.ts';

/** How a server wants to be spoken to, as far as servers differ. */
export interface S3Settings {
  region: string;
  pathStyle: boolean;
  /** Send `x-amz-checksum-sha256` with every put. */
  checksums: boolean;
}

/** What the store URL says of them, which is never changed; undefined is found out. */
export type GivenSettings = { [name in keyof S3Settings]: S3Settings[name] | undefined };

/** What a refusal teaches. */
export interface Lesson {
  settings: Partial<S3Settings>;
  /** True for a guess, which stands only if the same call succeeds with it. */
  guess: boolean;
  /** For people, once. */
  notice: string;
}

/** What lessons are drawn from. */
export interface Pupil {
  given: GivenSettings;
  settings: S3Settings;
  endpoint: string | undefined;
  /** True once an answer has proved that requests of this style reach the bucket. */
  settled: boolean;
}

/** Codes of refusals that are, or may be, for the region that the request was signed for. */
const REGION_CODES = new Set([
  'AuthorizationHeaderMalformed',
  'PermanentRedirect',
  'TemporaryRedirect',
  'IllegalLocationConstraintException',
  'InvalidRegion',
  'InvalidRegionName',
]);

/** Only such a text may become a part of a host name. */
const REGION = /^[a-z0-9][a-z0-9-]{0,40}$/;

/**
 * The region that a refusal names as the right one. AWS names it in a header and in the body, MinIO and versitygw in the body, others only in
 * the message ("… is wrong; expecting 'fr-par'"). R2 lists what it takes, `auto` among it.
 */
export function namedRegion(error: unknown): string | undefined {
  const { name, status } = factsOf(error);
  if (!REGION_CODES.has(name) && status !== 301 && status !== 400) return undefined;
  const message = messageOf(error);
  const candidates: unknown[] = [headerOf(error, 'x-amz-bucket-region')];
  if (REGION_CODES.has(name)) {
    candidates.push(
      field(error, 'Region'),
      /expecting ['"]?([a-z0-9-]+)/i.exec(message)?.[1],
      /must be one of:.*\b(auto)\b/i.exec(message)?.[1],
    );
  }
  return candidates.find((found): found is string => typeof found === 'string' && REGION.test(found));
}

/** What to change before the same call is made once more; undefined when the refusal teaches nothing. */
export function lessonOf(error: unknown, call: S3Call, pupil: Pupil): Lesson | undefined {
  if (error instanceof PresyncError || call.signal.aborted) return undefined;
  return (
    regionLesson(error, call, pupil) ?? checksumLesson(error, call, pupil) ?? styleLesson(error, call, pupil)
  );
}

function regionLesson(error: unknown, call: S3Call, { given, settings }: Pupil): Lesson | undefined {
  const region = namedRegion(error);
  if (region === undefined || given.region !== undefined || region === settings.region) return undefined;
  return {
    settings: { region },
    guess: false,
    notice: `${call.location} is in the region ${region}: add region=${region} to the store URL to spare a request`,
  };
}

/** Buckets whose objects are locked by default want a digest in a header of its own (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock-managing.html). */
function checksumLesson(error: unknown, call: S3Call, { given, settings }: Pupil): Lesson | undefined {
  const { status } = factsOf(error);
  const wanted = status === 400 && /content-md5|x-amz-checksum/i.test(messageOf(error));
  if (!wanted || call.action !== 'PUT' || given.checksums !== undefined || settings.checksums)
    return undefined;
  return {
    settings: { checksums: true },
    guess: false,
    notice: `${call.location} wants a checksum with each put: SHA-256 is sent from now on`,
  };
}

/** How servers say that they want the bucket in the host name, each by a code of its own. */
const STYLE_CODES = /SecondLevelDomain|PathStyle|PathAccess|VirtualHost/i;
const STYLE_WORDS = /virtual[\s-]*host|path[\s-]style/i;

/**
 * Servers other than AWS mostly take the bucket in the path, and in the host name only where their DNS is made for it; a few take it in the
 * host name only, and say so. After any other refusal the host name is not tried: where a name that is not meant for it leads to the same
 * server, that would take the first part of the prefix for the bucket.
 */
function styleLesson(error: unknown, call: S3Call, pupil: Pupil): Lesson | undefined {
  const { given, settings, endpoint, settled } = pupil;
  if (endpoint === undefined || settled || given.pathStyle !== undefined || !settings.pathStyle)
    return undefined;
  if (!STYLE_CODES.test(factsOf(error).name) && !STYLE_WORDS.test(messageOf(error))) return undefined;
  return {
    settings: { pathStyle: false },
    guess: true,
    notice: `${call.location} wants the bucket in the host name: add pathStyle=0 to the store URL to spare a request`,
  };
}
