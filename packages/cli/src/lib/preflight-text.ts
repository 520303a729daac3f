import type { Finding } from '@presync/bootstrap/preflight';

const MARKS = { pass: 'ok  ', warning: 'WARN', refusal: 'FAIL' } as const;

/** A finding as it is shown to people, with what to do on a line of its own. */
export function findingLines({ check, verdict, message, hint, overruled }: Finding): string[] {
  const mark = overruled ? 'OVERRULED' : MARKS[verdict];
  return [`${mark}  ${check}: ${message}`, ...(hint === null ? [] : [`      Try: ${hint}`])];
}
