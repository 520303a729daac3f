import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { receive } from '../src/lib/body.ts';

const STALL_MS = 200;

/** Gives one byte, waits, and then ends without the others: by an error, as a socket's own timer has it, or without. */
function cutAfter(waitMs: number, failure?: Error): Readable {
  return Readable.from(
    (async function* () {
      yield Buffer.from('a');
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      if (failure !== undefined) throw failure;
    })(),
  );
}

const reset = (): Error => Object.assign(new Error('aborted'), { code: 'ECONNRESET' });

function receiving(body: Readable): Promise<Uint8Array> {
  return receive(body, 10, { what: 'GET key', stallMs: STALL_MS, signal: AbortSignal.timeout(10_000) });
}

for (const [how, failure] of [
  ['by an error', reset],
  ['without one', () => undefined],
] as const) {
  test(`a body that another timer ends ${how}, just before ours, is a stall`, async () => {
    await assert.rejects(receiving(cutAfter(0.95 * STALL_MS, failure())), (error) => {
      assert.ok(isPresyncError(error, 'STORE_UNREACHABLE'), String(error));
      assert.ok(error.retryable);
      assert.match(error.message, /no byte moved for 0\.2 s/);
      return true;
    });
  });

  test(`a body that is cut at once ${how} is a short one`, async () => {
    await assert.rejects(receiving(cutAfter(0, failure())), (error) => {
      assert.ok(isPresyncError(error, 'STORE_FAILED'), String(error));
      assert.ok(error.retryable);
      assert.match(error.message, /1 of the announced 10 bytes/);
      return true;
    });
  });
}

test('a body of which nothing more comes is a stall, and is closed', async () => {
  const body = new Readable({ read() {} });
  body.push('a');
  await assert.rejects(receiving(body), (error) => isPresyncError(error, 'STORE_UNREACHABLE'));
  assert.ok(body.destroyed);
});
