/**
 * What the daemon and the commands say to each other over the socket in the state folder: JSON, a line each. The client asks once, and reads until the
 * daemon ends the connection.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { runRecord } from '../history.ts';

/** A client asks in fewer bytes; a status with its runs takes some 20 KB. */
export const MAX_LINE_BYTES = 1024 * 1024;

export const request = z.discriminatedUnion('ask', [
  z.object({ ask: z.literal('status') }),
  z.object({ ask: z.literal('run') }),
]);

const progress = z.object({
  phase: z.string().nullable(),
  label: z.string().nullable(),
  done: z.number(),
  total: z.number().nullable(),
});

export const daemonStatus = z.object({
  pid: z.number(),
  version: z.string(),
  since: z.iso.datetime(),
  schedules: z.array(z.string()),
  timezone: z.string(),
  next: z.iso.datetime().nullable(),
  stalled: z.boolean(),
  run: progress.extend({ id: z.string(), cause: z.string(), started: z.iso.datetime() }).nullable(),
  /** The last run that published. */
  newest: runRecord.nullable(),
  /** The last runs, the newest first. */
  runs: z.array(runRecord),
});

export const answer = z.discriminatedUnion('is', [
  z.object({ is: z.literal('status'), status: daemonStatus }),
  z.object({ is: z.literal('begun'), id: z.string() }),
  progress.extend({ is: z.literal('progress') }),
  z.object({ is: z.literal('ended'), run: runRecord, hint: z.string().nullable() }),
  z.object({
    is: z.literal('refused'),
    code: z.string(),
    message: z.string(),
    hint: z.string().nullable(),
  }),
]);

export type DaemonStatus = z.infer<typeof daemonStatus>;
export type Answer = z.infer<typeof answer>;

export function socketPath(stateDir: string): string {
  return join(stateDir, 'daemon.sock');
}
