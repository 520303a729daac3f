import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * For tests that need more than npm gives: `test(name, needs('versitygw', found), fn)`. When it is missing the test is
 * skipped with one line that says what it lacks; with `PRESYNC_TEST_REQUIRE=all` that is an error instead.
 */
export function needs(what: string, found: boolean): { skip: string | false } {
  if (found) return { skip: false };
  if (process.env.PRESYNC_TEST_REQUIRE === 'all') {
    throw new Error(
      `this test needs ${what}, which is missing, and PRESYNC_TEST_REQUIRE=all forbids to skip it`,
    );
  }
  return { skip: `needs ${what}` };
}

/** True when a program is on the path. */
export function hasProgram(name: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((dir) => existsSync(join(dir, name)));
}
