/** What the daemon's retention shows in the metrics. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import { createSilentLogger } from '@presync/runtime/log';
import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { openOrCreateRepository, openRepository } from '@presync/transfer/repository';
import { countOverdue, retainAfterSnapshot } from '../src/lib/retention.ts';
import { scratch } from './support.ts';

test('retention that fails is shown until it goes well again, and its error is handed on', async (t) => {
  const stateDir = await scratch(t);
  const { signal } = new AbortController();
  const store = createMemoryStore();
  await openOrCreateRepository(store, { signal });
  let away = true;
  const failing: ObjectStore = {
    ...store,
    async *list(prefix, options) {
      if (away) throw new PresyncError('STORE_UNREACHABLE', 'the store is away', { hint: 'wait' });
      yield* store.list(prefix, options);
    },
  };
  const repository = await openRepository(failing, { signal });
  const metrics = createMetrics(createRegistry());
  const config: Partial<CommandConfig<'snapshotter'>> = { keepLast: 1, grace: 0, store: 'memory:', stateDir };
  const log = createSilentLogger();
  // Only these options are looked at.
  const retain = retainAfterSnapshot(config as CommandConfig<'snapshotter'>, { log, metrics, signal });
  const failed = async (): Promise<number | undefined> =>
    (await metrics.repository.retentionFailed.get()).values[0]?.value;
  assert.equal(await failed(), 0);
  await assert.rejects(async () => retain?.(repository, 'test/rocksdb'), { code: 'STORE_UNREACHABLE' });
  assert.equal(await failed(), 1);
  away = false;
  await retain?.(repository, 'test/rocksdb');
  assert.equal(await failed(), 0);
});

test('garbage is overdue when its grace has ended and it is not being removed', () => {
  const created = '2026-03-01T00:00:00.000Z';
  const hour = 3_600_000;
  const waiting = [
    { id: 'a', phase: 'marked', created, leases: ['reader/x'] },
    { id: 'b', phase: 'deleting', created, leases: [] },
    { id: 'c', phase: 'deleted', created, leases: [] },
    { id: 'd', phase: 'marked', created: '2026-03-01T12:00:00.000Z', leases: [] },
  ];
  const at = (hours: number): number =>
    countOverdue(waiting, 24 * hour, { now: () => Date.parse(created) + hours * hour });
  assert.deepEqual([at(23), at(24), at(36)], [0, 1, 2]);
});
