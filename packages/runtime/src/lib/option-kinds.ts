import { z } from 'zod';
import {
  BYTES_PATTERN,
  DURATION_PATTERN,
  exactBytes,
  exactDuration,
  parseBytes,
  parseDuration,
} from '../units.ts';

/** What values an option may have, and how they are written. */
export interface OptionKind<T> {
  /** Takes what a configuration file may hold, and gives the value. */
  readonly schema: z.ZodType<T>;
  /** What may be written, to end the sentence "it must be …". */
  readonly allowed: string;
  /** The value's name in help and reference, such as `DIR`; none for a switch. */
  readonly placeholder: string | undefined;
  /** True when the flag may be given several times. */
  readonly repeatable: boolean;
  /** Turns text from the environment or the command line into what the schema takes; passes on what it cannot read, for the schema to refuse. */
  fromText(text: string): unknown;
  /** The same for one occurrence of a repeatable flag. */
  fromOccurrence(text: string): unknown;
  /** The value in the form that it is written in. */
  show(value: T): unknown;
}

interface KindParts<T> {
  schema: z.ZodType<T>;
  allowed: string;
  placeholder?: string | undefined;
  repeatable?: boolean;
  fromText?: (text: string) => unknown;
  fromOccurrence?: (text: string) => unknown;
  show?: (value: T) => unknown;
}

function kind<T>(parts: KindParts<T>): OptionKind<T> {
  const fromText = parts.fromText ?? ((text: string): unknown => text);
  return {
    schema: parts.schema,
    allowed: parts.allowed,
    placeholder: parts.placeholder,
    repeatable: parts.repeatable ?? false,
    fromText,
    fromOccurrence: parts.fromOccurrence ?? fromText,
    show: parts.show ?? ((value) => value),
  };
}

/** A schema from a function that reads the text; what it throws becomes the schema's refusal. */
function parsed<T>(pattern: RegExp, read: (text: string) => T): z.ZodType<T> {
  return z
    .string()
    .regex(pattern)
    .transform((text, context): T => {
      try {
        return read(text);
      } catch {
        context.addIssue({ code: 'custom', message: 'out of range' });
        return z.NEVER;
      }
    });
}

const BOOLEANS: Readonly<Record<string, boolean>> = {
  true: true,
  yes: true,
  on: true,
  1: true,
  false: false,
  no: false,
  off: false,
  0: false,
};

export function flag(): OptionKind<boolean> {
  return kind({
    schema: z.boolean(),
    allowed: 'true or false',
    fromText: (text) => BOOLEANS[text.toLowerCase()] ?? text,
  });
}

export function text(placeholder: string, allowed = 'a text that is not empty'): OptionKind<string> {
  return kind({ schema: z.string().min(1).max(4096), allowed, placeholder });
}

/** Text of one form. `example` ends the sentence "it must be …". */
export function pattern(placeholder: string, form: RegExp, allowed: string): OptionKind<string> {
  return kind({ schema: z.string().regex(form), allowed, placeholder });
}

/** One of several words. */
export function choice<const T extends string>(words: readonly [T, ...T[]]): OptionKind<T> {
  return kind({
    schema: z.enum(words),
    allowed: words.length === 1 ? words[0] : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`,
    placeholder: words.join('|'),
  });
}

export function integer(placeholder: string, least: number, most: number, unit = ''): OptionKind<number> {
  return kind({
    schema: z.int().min(least).max(most),
    allowed: `a whole number${unit === '' ? '' : ` of ${unit}`} from ${least} to ${most}`,
    placeholder,
    fromText: wholeNumber,
  });
}

/** Milliseconds. */
export function duration(least: string, most: string): OptionKind<number> {
  const [low, high] = [parseDuration(least), parseDuration(most)];
  return kind({
    schema: parsed(DURATION_PATTERN, (input) => within(parseDuration(input), low, high)),
    allowed: `a duration from ${least} to ${most}, with its unit, such as 90s, 15m, 2h or 7d`,
    placeholder: 'DURATION',
    show: exactDuration,
  });
}

/** Bytes. */
export function bytes(least: string, most: string): OptionKind<number> {
  const [low, high] = [parseBytes(least), parseBytes(most)];
  return kind({
    schema: parsed(BYTES_PATTERN, (input) => within(parseBytes(input), low, high)),
    allowed: `a size from ${least} to ${most}, with its unit, such as 100MB or 64MiB`,
    placeholder: 'SIZE',
    show: exactBytes,
  });
}

/** Bytes; a power of two. */
export function powerOfTwoBytes(least: string, most: string): OptionKind<number> {
  const [low, high] = [parseBytes(least), parseBytes(most)];
  return kind({
    schema: parsed(BYTES_PATTERN, (input) => {
      const bytes = within(parseBytes(input), low, high);
      if (!Number.isInteger(Math.log2(bytes))) throw new RangeError();
      return bytes;
    }),
    allowed: `a size from ${least} to ${most} that is a power of two, with its unit, such as 4MiB`,
    placeholder: 'SIZE',
    show: exactBytes,
  });
}

export function url(protocols: readonly string[]): OptionKind<string> {
  return kind({
    schema: z.string().refine((input) => {
      const read = URL.parse(input);
      return read !== null && protocols.includes(read.protocol.slice(0, -1)) && read.hostname !== '';
    }),
    allowed: `a URL that begins with ${protocols.map((protocol) => `${protocol}://`).join(', ')}`,
    placeholder: 'URL',
  });
}

/** A block hash, in lower case. */
export function blockHash(): OptionKind<string> {
  return kind({
    schema: parsed(/^0x[0-9a-fA-F]{64}$/, (input) => input.toLowerCase()),
    allowed: 'a block hash: 0x and 64 hexadecimal digits',
    placeholder: 'HASH',
  });
}

/** A SHA-256 digest, in lower case. */
export function sha256(): OptionKind<string> {
  return kind({
    schema: parsed(/^[0-9a-fA-F]{64}$/, (input) => input.toLowerCase()),
    allowed: 'a SHA-256 digest: 64 hexadecimal digits, as sha256sum prints them',
    placeholder: 'HEX',
  });
}

/** More than nothing and at most all of something, as a number of percent. */
export function percent(): OptionKind<number> {
  return kind({
    schema: parsed(/^\d{1,3}(?:\.\d{1,4})?%$/, (input) =>
      within(Number(input.slice(0, -1)), Number.MIN_VALUE, 100),
    ),
    allowed: 'a share with its sign, above 0% and up to 100%, such as 5% or 0.1%',
    placeholder: 'N%',
    show: (value) => `${value}%`,
  });
}

export function snapshotReference(): OptionKind<'latest' | 'pinned' | number> {
  return kind({
    schema: z.union([z.literal('latest'), z.literal('pinned'), z.int().positive()]),
    allowed: '"latest", "pinned" or a sequence number from 1 on',
    placeholder: 'latest|pinned|SEQ',
    fromText: wholeNumber,
  });
}

export interface ListenAddress {
  host: string;
  /** 0 for any free one. */
  port: number;
}

export function listenAddress(): OptionKind<ListenAddress | 'none'> {
  return kind<ListenAddress | 'none'>({
    schema: z.union([
      z.literal('none'),
      parsed(/^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, (input) => {
        const colon = input.lastIndexOf(':');
        return {
          host: input.slice(0, colon).replaceAll(/[[\]]/g, ''),
          port: within(Number(input.slice(colon + 1)), 0, 65_535),
        };
      }),
    ]),
    allowed: '"none", or an address and a port such as 127.0.0.1:9616',
    placeholder: 'HOST:PORT',
    show: (value) =>
      value === 'none' ? value : `${value.host.includes(':') ? `[${value.host}]` : value.host}:${value.port}`,
  });
}

export interface Owner {
  uid: number;
  gid: number;
}

/** Numbers only: names would need the system's user database, which Node cannot ask. */
export function owner(): OptionKind<Owner> {
  return kind({
    schema: parsed(/^\d{1,10}:\d{1,10}$/, (input) => {
      const [uid = -1, gid = -1] = input.split(':').map(Number);
      // 2^32 - 1 is chown(2)'s "leave as it is".
      return { uid: within(uid, 0, 2 ** 32 - 2), gid: within(gid, 0, 2 ** 32 - 2) };
    }),
    allowed: 'a numeric user id and group id, such as 1000:1000 (the command "id" prints them)',
    placeholder: 'UID:GID',
    show: ({ uid, gid }) => `${uid}:${gid}`,
  });
}

export function timezone(): OptionKind<string> {
  return kind({
    schema: z.string().refine((input) => {
      try {
        new Intl.DateTimeFormat('en', { timeZone: input });
        return true;
      } catch {
        return false;
      }
    }),
    allowed: 'a time zone of the IANA database, such as UTC or Europe/Berlin',
    placeholder: 'ZONE',
  });
}

/** Command and arguments. In text it is a JSON array, so that no quoting rule has to be guessed. */
export function argv(): OptionKind<string[]> {
  return kind({
    schema: z.array(z.string().min(1)).min(1),
    allowed:
      'a list of a command and its arguments, in the environment as JSON: ["polkadot","--chain","polkadot"]',
    placeholder: 'JSON',
    fromText: (input) => {
      try {
        return JSON.parse(input);
      } catch {
        return input;
      }
    },
  });
}

/** Several of a kind: a list in a file, a repeated flag, and commas, or what their values do not hold, in the environment. */
export function list<T>(item: OptionKind<T>, separator: ',' | ';' = ','): OptionKind<T[]> {
  return kind({
    schema: z.union([z.array(item.schema), item.schema.transform((value) => [value])]),
    allowed: `${item.allowed}, or a list of such`,
    placeholder: item.placeholder,
    repeatable: true,
    fromText: (input) =>
      input
        .split(separator)
        .map((part) => part.trim())
        .filter((part) => part !== '')
        .map((part) => item.fromText(part)),
    fromOccurrence: (input) => item.fromText(input),
    show: (values) => values.map((value) => item.show(value)),
  });
}

function wholeNumber(input: string): unknown {
  return /^\d{1,15}$/.test(input) ? Number(input) : input;
}

function within(value: number, least: number, most: number): number {
  if (value < least || value > most) throw new RangeError();
  return value;
}
