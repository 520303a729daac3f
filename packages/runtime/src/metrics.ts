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
  const storeRetries = new Counter({
    name: 'presync_store_retries_total',
    help: 'Calls to the object store that were made again, by the error code of the attempt before.',
    labelNames: ['cause'] as const,
    registers,
  });
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
      retried(cause: string): void {
        storeRetries.inc({ cause });
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
      gate: new Gauge({
        name: 'presync_gate_shut',
        help: '1 when the gate was shut at the last run, 0 when it was open; see docs/daemon.md for the gates.',
        labelNames: ['gate'] as const,
        registers,
      }),
      running: new Gauge({
        name: 'presync_snapshot_running',
        help: '1 while a run is under way.',
        registers,
      }),
      stalled: new Gauge({
        name: 'presync_snapshot_stalled',
        help: '1 while the run under way makes no progress.',
        registers,
      }),
      nextRun: new Gauge({
        name: 'presync_snapshot_next_run_timestamp_seconds',
        help: 'When the next run is due, as Unix time, without jitter.',
        registers,
      }),
      lastRun: new Gauge({
        name: 'presync_snapshot_last_run_timestamp_seconds',
        help: 'When the last run ended, as Unix time, by outcome: published, skipped, failed or stopped.',
        labelNames: ['outcome'] as const,
        registers,
      }),
      maxAge: new Gauge({
        name: 'presync_snapshot_max_age_seconds',
        help: 'How old the newest snapshot may be (--max-age); 0 when nothing is demanded.',
        registers,
      }),
      phaseSeconds: new Histogram({
        name: 'presync_snapshot_phase_seconds',
        help: 'Time of the parts of runs: gate, store, prepare, anchor, pause, upload, publish, prove, after.',
        labelNames: ['phase'] as const,
        buckets: RUN_BUCKETS,
        registers,
      }),
      bytes: new Counter({
        name: 'presync_snapshot_bytes_total',
        help: 'Bytes of published runs: read from the view, or added to the store.',
        labelNames: ['kind'] as const,
        registers,
      }),
      ratio: new Gauge({
        name: 'presync_snapshot_last_stored_ratio',
        help: 'What compression left of the newest snapshot: stored bytes divided by unique ones.',
        registers,
      }),
      bloat: new Gauge({
        name: 'presync_snapshot_source_bloat_ratio',
        help: "Bytes that the database takes on the source's disk, divided by the stored bytes of its snapshot.",
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
      quarantined: new Counter({
        name: 'presync_snapshot_quarantined_total',
        help: 'Snapshots that failed their proof and stay in quarantine.',
        registers,
      }),
      viewsLeft: new Gauge({
        name: 'presync_snapshot_views_left',
        help: 'Frozen views that are still there although nobody reads them: their presync has ended, or it is this one between two runs.',
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
        help: 'Bytes of the newest snapshot: total, unique, stored, added by it, read for it, or allocated on the source.',
        labelNames: ['kind'] as const,
        registers,
      }),
    },
    node: {
      paused: new Gauge({
        name: 'presync_node_paused',
        help: '1 while presync pauses the node, from the wait for its turn until the node runs again.',
        registers,
      }),
      resumeFailures: new Counter({
        name: 'presync_node_resume_failures_total',
        help: 'Resumes that failed, or after which no block came.',
        registers,
      }),
      pauseOverruns: new Counter({
        name: 'presync_node_pause_overruns_total',
        help: 'Pauses that were over their budget: the node was resumed, and the view thrown away.',
        registers,
      }),
    },
    disk: new Gauge({
      name: 'presync_disk_free_bytes',
      help: 'Bytes that are free on the disk of the database, of the frozen view and of the state folder.',
      labelNames: ['place'] as const,
      registers,
    }),
    repository: {
      damaged: new Gauge({
        name: 'presync_repository_damaged_snapshots',
        help: 'Snapshots that retention would keep and that lack chunks, as the last run of retention found them.',
        registers,
      }),
      retentionFailed: new Gauge({
        name: 'presync_repository_retention_failed',
        help: '1 when the last run of retention failed, or could remove nothing because nobody knows what a snapshot names; else 0.',
        registers,
      }),
      overdue: new Gauge({
        name: 'presync_repository_overdue_collections',
        help: 'Finds of garbage that are still there although their grace is over, as the last run of retention left them: they wait for leases, or for what cannot be read.',
        registers,
      }),
      removedBytes: new Counter({
        name: 'presync_repository_removed_bytes_total',
        help: 'Bytes of chunks that were removed because no snapshot names them any more.',
        registers,
      }),
    },
    config: {
      reloads: new Counter({
        name: 'presync_config_reloads_total',
        help: 'Times that the configuration was read again, by outcome: applied or refused.',
        labelNames: ['outcome'] as const,
        registers,
      }),
      ok: new Gauge({
        name: 'presync_config_last_reload_ok',
        help: '0 when the configuration that was last read again was refused, else 1.',
        registers,
      }),
    },
    history: {
      failures: new Counter({
        name: 'presync_history_write_failures_total',
        help: 'Runs that could not be written into the history.',
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
    cloud: {
      notices: new Counter({
        name: 'presync_cloud_notices_total',
        help: 'Notices that this instance will end, restart or pause: preemption, rebalance, scale-in or maintenance.',
        labelNames: ['kind'] as const,
        registers,
      }),
      deadline: new Gauge({
        name: 'presync_cloud_notice_deadline_timestamp_seconds',
        help: 'When what was told last begins at the earliest, as Unix time; absent once it is over.',
        labelNames: ['kind'] as const,
        registers,
      }),
      failures: new Counter({
        name: 'presync_cloud_metadata_failures_total',
        help: 'Questions about this instance that its metadata service did not answer, by what was asked for.',
        labelNames: ['source'] as const,
        registers,
      }),
      heartbeats: new Counter({
        name: 'presync_cloud_heartbeats_total',
        help: 'Heartbeats that keep the group waiting at a lifecycle hook, by outcome: ok or failed.',
        labelNames: ['outcome'] as const,
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
      phaseSeconds: new Gauge({
        name: 'presync_bootstrap_phase_seconds',
        help: 'Time that each step of the way to ready took.',
        labelNames: ['phase'] as const,
        registers,
      }),
      phase: new Gauge({
        name: 'presync_bootstrap_phase',
        help: '1 for what the agent does now.',
        labelNames: ['phase'] as const,
        registers,
      }),
    },
  };
}

export type Metrics = ReturnType<typeof createMetrics>;

export interface MetricFacts {
  name: string;
  type: string;
  help: string;
  labels: readonly string[];
}

/** Every metric of presync's own, by name: for the reference, and for tests of what queries them. */
export function listMetrics(): MetricFacts[] {
  const register = new Registry();
  createMetrics(register);
  return register
    .getMetricsAsArray()
    .map((metric) => ({
      name: metric.name,
      type: String(metric.type),
      help: metric.help,
      // prom-client's types do not show it.
      labels: 'labelNames' in metric && Array.isArray(metric.labelNames) ? metric.labelNames.map(String) : [],
    }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
}
