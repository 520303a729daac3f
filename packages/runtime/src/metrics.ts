import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export { Registry } from 'prom-client';

/** One call to the store. It fits the sink that `withMetrics` of the store takes. */
export interface StoreCall {
  operation: string;
  /** `ok`, `absent`, or an error code. */
  outcome: string;
  seconds: number;
  bytes: number;
}

/** From a cache hit to a call that was given up. */
const STORE_BUCKETS = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** The goal is a second; the default budget is ten. */
const PAUSE_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30];

/** From an unchanged database to terabytes over a thin link. */
const RUN_BUCKETS = [1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600];

/** A registry with what Node tells of the process; never prom-client's global one. */
export function createRegistry(): Registry {
  const register = new Registry();
  collectDefaultMetrics({ register, prefix: 'presync_' });
  return register;
}

/** Every metric of presync, on a registry of the caller's. Call it once a registry. */
export function createMetrics(register: Registry) {
  const registers = [register];
  const storeSeconds = new Histogram({
    name: 'presync_store_call_seconds',
    help: 'Time of calls to the object store.',
    labelNames: ['operation', 'outcome'] as const,
    buckets: STORE_BUCKETS,
    registers,
  });
  const storeBytes = new Counter({
    name: 'presync_store_transferred_bytes_total',
    help: 'Bytes of objects that were read from or put into the store.',
    labelNames: ['operation'] as const,
    registers,
  });
  return {
    /** For `withMetrics(store, metrics.store)`. */
    store: {
      observe({ operation, outcome, seconds, bytes }: StoreCall): void {
        storeSeconds.observe({ operation, outcome }, seconds);
        if (bytes > 0) storeBytes.inc({ operation }, bytes);
      },
    },
    build: new Gauge({
      name: 'presync_build_info',
      help: 'Always 1; the labels tell what runs.',
      labelNames: ['version', 'program'] as const,
      registers,
    }),
    snapshot: {
      runs: new Counter({
        name: 'presync_snapshot_runs_total',
        help: 'Snapshot runs by outcome: published, skipped, or an error code.',
        labelNames: ['outcome'] as const,
        registers,
      }),
      gateShut: new Counter({
        name: 'presync_snapshot_gate_shut_total',
        help: 'Runs that a gate stopped, by the gate.',
        labelNames: ['gate'] as const,
        registers,
      }),
      seconds: new Histogram({
        name: 'presync_snapshot_run_seconds',
        help: 'Time of runs that published a snapshot.',
        buckets: RUN_BUCKETS,
        registers,
      }),
      pauseSeconds: new Histogram({
        name: 'presync_snapshot_pause_seconds',
        help: 'Time that the node stood still.',
        buckets: PAUSE_BUCKETS,
        registers,
      }),
      lastPublished: new Gauge({
        name: 'presync_snapshot_last_published_timestamp_seconds',
        help: 'When the newest snapshot of this daemon became latest, as Unix time.',
        registers,
      }),
      lastSequence: new Gauge({
        name: 'presync_snapshot_last_sequence',
        help: 'Sequence number of the newest snapshot of this daemon.',
        registers,
      }),
      lastAnchor: new Gauge({
        name: 'presync_snapshot_last_anchor_block',
        help: 'Finalized block that the newest snapshot is known to hold.',
        registers,
      }),
      lastBytes: new Gauge({
        name: 'presync_snapshot_last_bytes',
        help: 'Bytes of the newest snapshot: total, unique, stored, or added by it.',
        labelNames: ['kind'] as const,
        registers,
      }),
    },
    node: {
      paused: new Gauge({
        name: 'presync_node_paused',
        help: '1 while presync holds the node paused.',
        registers,
      }),
      resumeFailures: new Counter({
        name: 'presync_node_resume_failures_total',
        help: 'Resumes that failed, or after which no block came.',
        registers,
      }),
    },
    restore: {
      bytes: new Counter({
        name: 'presync_restore_bytes_total',
        help: 'Bytes of plaintext that were restored: fetched, reused from the target, or zeros.',
        labelNames: ['source'] as const,
        registers,
      }),
      seconds: new Histogram({
        name: 'presync_restore_seconds',
        help: 'Time of restores that were completed.',
        buckets: RUN_BUCKETS,
        registers,
      }),
    },
    serve: {
      seconds: new Histogram({
        name: 'presync_serve_answer_seconds',
        help: 'Time of answers to other machines, by HTTP status.',
        labelNames: ['status'] as const,
        buckets: STORE_BUCKETS,
        registers,
      }),
      bytes: new Counter({
        name: 'presync_serve_sent_bytes_total',
        help: 'Bytes of objects that were sent to other machines.',
        registers,
      }),
    },
    bootstrap: {
      ready: new Gauge({
        name: 'presync_bootstrap_ready',
        help: '1 when the node is ready to serve.',
        registers,
      }),
      secondsToReady: new Gauge({
        name: 'presync_bootstrap_to_ready_seconds',
        help: "Time from the agent's start until the node was ready.",
        registers,
      }),
    },
  };
}

export type Metrics = ReturnType<typeof createMetrics>;
