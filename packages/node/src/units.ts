/** A node that is a systemd unit: start and stop, where nothing of the pause is involved. */
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { systemctl, unitState } from './lib/systemctl.ts';

/** A unit of type "notify" tells only when the node is up, which may have to replay its logs first. */
const START_TIMEOUT_MS = 600_000;

/**
 * Starts a unit, and looks whether systemd did: a unit whose conditions are not met is passed over without an error.
 *
 * @throws NODE_START_FAILED, ABORTED
 */
export async function startUnit(unit: string, { signal }: { signal: AbortSignal }): Promise<void> {
  const outcome = await systemctl(['start', '--', unit], { timeoutMs: START_TIMEOUT_MS, signal });
  throwIfAborted(signal);
  if (!outcome.ok) {
    throw new PresyncError('NODE_START_FAILED', `systemd did not start ${unit}: systemctl ${outcome.why}`, {
      hint: `see "systemctl status ${unit}"`,
    });
  }
  const { active, conditionMet } = await unitState(unit);
  if (active !== 'inactive' || conditionMet) return;
  throw new PresyncError('NODE_START_FAILED', `systemd passed ${unit} over: a condition of it is not met`, {
    hint: `see "systemctl status ${unit}"; if it is that of presync's drop-in, its path must be that of --sealed-file`,
  });
}

/** @throws NODE_STOP_FAILED */
export async function stopUnit(unit: string, { timeoutMs }: { timeoutMs: number }): Promise<void> {
  const outcome = await systemctl(['stop', '--', unit], { timeoutMs });
  if (outcome.ok) return;
  throw new PresyncError('NODE_STOP_FAILED', `systemd did not stop ${unit}: systemctl ${outcome.why}`, {
    hint: `see "systemctl status ${unit}"`,
  });
}
