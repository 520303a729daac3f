import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { createCgroupHold } from './cgroup-hold.ts';
import type { Hold, ReleaseOutcome } from './hold.ts';
import type { PauseTarget } from './pause-target.ts';
import type { RunOutcome } from './run-program.ts';
import { systemctl, unitState } from './systemctl.ts';

type UnitTarget = Extract<PauseTarget, { kind: 'unit' }>;

/** How long a unit may take to start: a node of type "notify" tells only when it is up. */
const START_TIMEOUT_MS = 300_000;
/** systemd thaws at once, or it is in trouble; then the kernel is asked. */
const THAW_TIMEOUT_MS = 5000;
/** systemd's answer is awaited so long when the kernel says that it has frozen the unit. */
const ANSWER_MS = 500;
/** A node that cannot run ends right after its start; one that is still there after this long has got over that. */
const SETTLE_MS = 1000;

/** A unit that systemd freezes, or stops and starts. */
export function createUnitHold(target: UnitTarget): Hold {
  return target.action === 'freeze' ? freezing(target) : stopping(target);
}

/**
 * Through systemd, so that it knows: it would wait for ever for a frozen unit to stop. But what counts is what the kernel says of the cgroup: systemd
 * was seen not to answer for a minute, and it believes a unit to be frozen still that somebody else has thawed.
 */
function freezing(target: UnitTarget & { action: 'freeze' }): Hold {
  const { unit, dir } = target;
  const cgroup = createCgroupHold({ version: 2, dir });
  const thaw = () => systemctl(['thaw', '--', unit], { timeoutMs: THAW_TIMEOUT_MS });
  return {
    target,
    emergency: {
      // The node first; that systemd knows of it comes after.
      script: `
if [ -e "$2" ]; then echo 0 >"$2" || return 1; fi
systemctl --no-ask-password thaw -- "$1"
:`,
      args: [unit, join(dir, 'cgroup.freeze')],
    },
    assertFree: async (options) => {
      await assertActive(unit);
      await cgroup.assertFree(options);
      if ((await unitState(unit)).freezer !== 'running') await thaw();
    },
    hold: async ({ timeoutMs, signal }) => {
      const enough = new AbortController();
      const deadline = performance.now() + timeoutMs;
      let answer: RunOutcome | undefined;
      const asked = systemctl(['freeze', '--', unit], {
        timeoutMs,
        signal: AbortSignal.any([signal, enough.signal]),
      }).then((given) => {
        answer = given;
      });
      try {
        while (!(await cgroup.isHeld())) {
          if (answer?.ok === false || performance.now() > deadline) {
            const why = answer?.ok === false ? answer.why : `did not do it within ${timeoutMs} ms`;
            throw pauseFailed(`unit ${unit} was not frozen: systemctl ${why}`, signal);
          }
          throwIfAborted(signal);
          await sleep(2);
        }
        await Promise.race([asked, sleep(ANSWER_MS, undefined, { ref: false })]);
      } finally {
        enough.abort();
        await asked;
      }
    },
    isHeld: () => cgroup.isHeld(),
    release: async (): Promise<ReleaseOutcome> => {
      const held = await cgroup.isHeld();
      await thaw();
      const outcome = await cgroup.release();
      return held && outcome === 'running' ? 'resumed' : outcome;
    },
  };
}

function stopping(target: UnitTarget & { action: 'stop' }): Hold {
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
