import { PresyncError } from './errors.ts';

/** Bytes in each unit that a size may carry. The short decimal and the binary forms are what `df`, `curl` and cloud consoles print. */
const BYTE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** Milliseconds in each unit that a duration may carry. */
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** What `parseBytes` takes: a number and its unit, as `4MiB`, `200GB`, `1.5 TiB`. */
export const BYTES_PATTERN = /^(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]iB|[kKMGT]?B)$/;

/** What `parseDuration` takes: numbers with their units, as `90s`, `1h30m`, `0s`. */
export const DURATION_PATTERN = /^(?:\d{1,15}(?:\.\d{1,6})?(?:ms|s|m|h|d|w)){1,6}$/;

/**
 * Bytes of a size such as `4MiB` (1024 to a step) or `200GB` (1000 to a step). A bare number is refused: nobody can
 * tell whether it was meant as bytes or as megabytes.
 *
 * @throws PresyncError CONFIG_INVALID
 */
export function parseBytes(text: string): number {
  const [, amount, unit] = BYTES_PATTERN.exec(text.trim()) ?? [];
  const bytes = Math.round(Number(amount) * (BYTE_UNITS[unit ?? ''] ?? Number.NaN));
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new PresyncError('CONFIG_INVALID', `"${text}" is not a size`, {
    hint: 'write a number and its unit, such as 4MiB or 200GB',
  });
}

/**
 * Milliseconds of a duration such as `90s`, `15m`, `2h`, `7d` or `1h30m`.
 *
 * @throws PresyncError CONFIG_INVALID
 */
export function parseDuration(text: string): number {
  const trimmed = text.trim();
  let total = DURATION_PATTERN.test(trimmed) ? 0 : Number.NaN;
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d|w)/g)) {
    total += Number(amount) * (DURATION_UNITS[unit ?? ''] ?? Number.NaN);
  }
  const milliseconds = Math.round(total);
  if (Number.isSafeInteger(milliseconds)) return milliseconds;
  throw new PresyncError('CONFIG_INVALID', `"${text}" is not a duration`, {
    hint: 'write a number and its unit, such as 90s, 15m, 2h or 7d',
  });
}

/** A size for people, in binary units and three significant digits: `512 B`, `4 MiB`, `1.5 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = Math.max(0, bytes);
  let step = 0;
  // 1023.5 would be rounded to 1024 of the smaller unit.
  while (value >= 1023.5 && step < units.length - 1) {
    value /= 1024;
    step++;
  }
  const digits = step === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${Number(value.toFixed(digits))} ${units[step]}`;
}

/** A duration for people, in its two largest units: `850 ms`, `12.3 s`, `4m 5s`, `2h 10m`, `30d`. */
export function formatDuration(milliseconds: number): string {
  const value = Math.max(0, milliseconds);
  if (value < 999.5) return `${Math.round(value)} ms`;
  if (value < 59_950) return `${Number((value / 1000).toFixed(1))} s`;
  const seconds = Math.round(value / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${unit}`)
    .join(' ');
}

/** The exact form that `parseDuration` reads back, in the largest unit that divides it: `30d`, `90s`, `0s`. */
export function exactDuration(milliseconds: number): string {
  if (milliseconds === 0) return '0s';
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = DURATION_UNITS[unit] ?? 1;
    if (milliseconds % size === 0) return `${milliseconds / size}${unit}`;
  }
  return `${milliseconds}ms`;
}

/** The exact form that `parseBytes` reads back, in the largest binary unit that divides it: `4MiB`, `1000B`. */
export function exactBytes(bytes: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB']) {
    const size = BYTE_UNITS[unit] ?? 1;
    if (bytes !== 0 && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return `${bytes}B`;
}
