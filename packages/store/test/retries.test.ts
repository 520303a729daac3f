/** Retries of the composed store are told, by cause. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { composeStore } from '../src/compose.ts';
import { logRetries } from '../src/notices.ts';

test('a store that is away is told of by the cause of each retry, and in the log once', async () => {
  const stop = new AbortController();
  const causes: string[] = [];
  const lines: { event: string; fields: unknown }[] = [];
  const store = await composeStore('http://127.0.0.1:1/repository', {
    metrics: {
      observe: () => {},
      retried: (cause) => {
        causes.push(cause);
        if (causes.length === 2) stop.abort();
      },
    },
    onRetry: logRetries({ warn: (event, _message, fields) => lines.push({ event, fields }) }),
    signal: stop.signal,
  });
  await assert.rejects(store.stat('presync.json', { signal: stop.signal }), (error) =>
    isPresyncError(error, 'ABORTED'),
  );
  await store.close();
  assert.deepEqual(causes, ['STORE_UNREACHABLE', 'STORE_UNREACHABLE']);
  assert.deepEqual(
    lines.map(({ event }) => event),
    ['store.retried'],
  );
});
