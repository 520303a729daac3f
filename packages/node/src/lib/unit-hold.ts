import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Hold, ReleaseOutcome } from './hold.ts';
import type { PauseTarget } from './pause-target.ts';
import { systemctl, unitState } from './systemctl.ts';

type UnitTarget = Extract<PauseTarget, { kind: 'unit' }>;

/** How long a unit may take to start: a node of type "notify" tells only when it is up. */
const START_TIMEOUT_MS = 300_000;
const THAW_TIMEOUT_MS = 30_000;
/** A node that cannot run ends right after its start; one that is still there after this long has got over that. */
const SETTLE_MS = 1000;

/** A unit that systemd freezes, or stops and starts. */
export function createUnitHold(target: UnitTarget): Hold {
  return target.action === 'freeze' ? freezing(target) : stopping(target);
}

function freezing(target: UnitTarget): Hold {
  const { unit } = target;
  return {
    target,
    emergency: {
      script:
        'systemctl --no-ask-password thaw -- "$1" || ! systemctl --no-ask-password is-active --quiet -- "$1"',
      args: [unit],
    },
    assertFree: async () => {
      await assertActive(unit);
      if ((await unitState(unit)).freezer === 'running') return;
      throw new PresyncError('NODE_PAUSE_FAILED', `unit ${unit} is frozen already, and not by presync`, {
        hint: `find out who froze it; systemctl thaw ${unit} thaws it`,
      });
    },
    hold: async ({ timeoutMs, signal }) => {
      const outcome = await systemctl(['freeze', '--', unit], { timeoutMs, signal });
      if (!outcome.ok) throw pauseFailed(`unit ${unit} was not frozen: systemctl ${outcome.why}`, signal);
    },
    isHeld: async () => (await unitState(unit)).freezer === 'frozen',
    release: async (): Promise<ReleaseOutcome> => {
      const { freezer } = await unitState(unit);
      const outcome = await systemctl(['thaw', '--', unit], { timeoutMs: THAW_TIMEOUT_MS });
      const after = await unitState(unit);
      if (after.active === 'inactive' || after.active === 'failed') return 'gone';
      if (!outcome.ok || after.freezer !== 'running') {
        throw new PresyncError(
          'NODE_RESUME_FAILED',
          `unit ${unit} was not thawed${outcome.ok ? '' : `: systemctl ${outcome.why}`}`,
          { hint: `run systemctl thaw ${unit} as root` },
        );
      }
      return freezer === 'running' ? 'running' : 'resumed';
    },
  };
}

function stopping(target: UnitTarget): Hold {
  const { unit } = target;
  return {
    target,
    emergency: { script: 'systemctl --no-ask-password start -- "$1"', args: [unit] },
    assertFree: () => assertActive(unit),
    hold: async ({ timeoutMs, signal }) => {
      const outcome = await systemctl(['stop', '--', unit], { timeoutMs, signal });
      if (!outcome.ok) throw pauseFailed(`unit ${unit} was not stopped: systemctl ${outcome.why}`, signal);
      const { active } = await unitState(unit);
      if (hasStopped(active)) return;
      throw new PresyncError('NODE_PAUSE_FAILED', `unit ${unit} is ${active} although it was stopped`, {
        hint: 'look whether something starts it again at once, as a socket or a timer',
      });
    },
    isHeld: async () => hasStopped((await unitState(unit)).active),
    release: async (): Promise<ReleaseOutcome> => {
      const { active } = await unitState(unit);
      if (active === 'active') return 'running';
      const outcome = await systemctl(['start', '--', unit], { timeoutMs: START_TIMEOUT_MS });
      if (outcome.ok) await sleep(SETTLE_MS);
      const after = outcome.ok ? (await unitState(unit)).active : '';
      if (after === 'active') return 'resumed';
      throw new PresyncError(
        'NODE_RESUME_FAILED',
        `unit ${unit} was not started again: ${outcome.ok ? `it is ${after}` : `systemctl ${outcome.why}`}`,
        { hint: `look at "journalctl -u ${unit}", and run systemctl start ${unit} as root` },
      );
    },
  };
}

async function assertActive(unit: string): Promise<void> {
  const { active } = await unitState(unit);
  if (active === 'active' || active === 'reloading') return;
  throw new PresyncError('NODE_NOT_RUNNING', `unit ${unit} is ${active}`, {
    hint: 'start the node; for one that shall stay down, use --pause none',
  });
}

function hasStopped(active: string): boolean {
  return active === 'inactive' || active === 'failed';
}

function pauseFailed(message: string, signal: AbortSignal): PresyncError {
  throwIfAborted(signal);
  return new PresyncError('NODE_PAUSE_FAILED', message, {
    hint: 'run presync as root, or allow its user to manage the unit (polkit: org.freedesktop.systemd1.manage-units)',
  });
}
