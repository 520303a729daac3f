import { type ErrorCode, isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';

/** Fails a conformance case. */
export function expect(truth: boolean, message: string, cause?: unknown): asserts truth {
  if (truth) return;
  throw new PresyncError('STORE_FAILED', `the store breaks a promise: ${message}`, {
    cause,
    hint: 'presync cannot rely on this store; look for a newer version of its server, or use another one',
  });
}

/** Fails unless both are the same bytes. */
export function expectBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  expect(
    actual.byteLength === expected.byteLength,
    `${what} has ${actual.byteLength} bytes, not ${expected.byteLength}`,
  );
  expect(Buffer.compare(actual, expected) === 0, `${what} has other bytes than were put`);
}

/** Fails unless the promise rejects with one of the codes. */
export async function expectError(
  promise: Promise<unknown>,
  codes: ErrorCode[],
  what: string,
): Promise<void> {
  let result: unknown;
  try {
    result = await promise;
  } catch (error) {
    const right = codes.some((code) => isPresyncError(error, code));
    expect(
      right,
      `${what} gives ${isPresyncError(error) ? error.code : messageOf(error)}, not ${codes.join(' or ')}`,
      error,
    );
    return;
  }
  expect(
    false,
    `${what} succeeds${result === undefined ? '' : ' with a result'}; it should give ${codes.join(' or ')}`,
  );
}
