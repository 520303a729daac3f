import { existsSync } from 'node:fs';
import { PresyncError } from '@presync/runtime/errors';
import { type RunOutcome, runProgram } from './run-program.ts';

/** As sd_booted(3) tells it. */
export function systemdRuns(): boolean {
  return existsSync('/run/systemd/system');
}

/** Questions are answered at once, or systemd is in trouble. */
const QUESTION_TIMEOUT_MS = 15_000;

export interface UnitState {
  /** `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`. */
  active: string;
  mainPid: number | undefined;
  /** Below the root of the hierarchy, as `/system.slice/polkadot.service`; undefined when it has none. */
  cgroup: string | undefined;
  /** `running`, `frozen`, or on the way to one of them; undefined where systemd does not know. */
  freezer: string | undefined;
  /** False when the unit was last passed over because a condition of it was not met. */
  conditionMet: boolean;
}

export function systemctl(
  args: readonly string[],
  options: { timeoutMs?: number | undefined; signal?: AbortSignal | undefined } = {},
): Promise<RunOutcome> {
  return runProgram(['systemctl', '--no-ask-password', ...args], {
    timeoutMs: options.timeoutMs ?? QUESTION_TIMEOUT_MS,
    signal: options.signal,
  });
}

/** @throws NODE_NOT_RUNNING when there is no such unit, NODE_PAUSE_FAILED when systemd does not answer */
export async function unitState(unit: string): Promise<UnitState> {
  const names = ['LoadState', 'ActiveState', 'MainPID', 'ControlGroup', 'FreezerState', 'ConditionResult'];
  const outcome = await systemctl(['show', ...names.map((name) => `--property=${name}`), '--', unit]);
  if (!outcome.ok) {
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `systemd tells nothing of ${unit}: systemctl ${outcome.why}`,
      {
        hint: 'check --unit, and that systemd runs here',
      },
    );
  }
  const values = new Map(
    outcome.stdout.split('\n').map((line): [string, string] => {
      const sign = line.indexOf('=');
      return [line.slice(0, sign), line.slice(sign + 1)];
    }),
  );
  if (values.get('LoadState') === 'not-found') {
    throw new PresyncError('NODE_NOT_RUNNING', `there is no unit ${unit}`, {
      hint: 'check --unit; "systemctl list-units" lists those that there are',
    });
  }
  const pid = Number(values.get('MainPID'));
  return {
    active: values.get('ActiveState') ?? '',
    mainPid: pid > 0 ? pid : undefined,
    cgroup: values.get('ControlGroup') || undefined,
    freezer: values.get('FreezerState') || undefined,
    conditionMet: values.get('ConditionResult') !== 'no',
  };
}
