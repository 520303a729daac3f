import { errnoOf, messageOf } from '@presync/runtime/errors';
import type { PauserOptions, PauseStrategy } from '../pause.ts';
import { runProgram } from './run-program.ts';
import { finderOf } from './strategies.ts';
import { systemdRuns } from './systemctl.ts';

/** Whether a strategy can be used on this machine, for this node. */
export interface PauseAbility {
  strategy: PauseStrategy;
  able: boolean;
  /** What it would hold, or why it cannot. */
  detail: string;
}

const STRATEGIES: readonly PauseStrategy[] = ['signal', 'freeze', 'stop', 'docker', 'hooks'];

/**
 * Tries each strategy up to the point where the node would be held. Nothing is held and nothing is written.
 *
 * @throws ABORTED
 */
export async function pauseAbilities(
  options: Omit<PauserOptions, 'strategy'>,
  { signal }: { signal: AbortSignal },
): Promise<PauseAbility[]> {
  const abilities: PauseAbility[] = [];
  for (const strategy of STRATEGIES) {
    try {
      const hold = await finderOf({ ...options, strategy })({ id: 'doctor', signal });
      await hold.assertFree({ signal });
      if (hold.target.kind === 'process') assertMaySignal(hold.target.node.pid);
      abilities.push({ strategy, able: true, detail: await describe(strategy) });
    } catch (error) {
      if (signal.aborted) throw error;
      abilities.push({ strategy, able: false, detail: messageOf(error) });
    }
  }
  return abilities;
}

function assertMaySignal(pid: number): void {
  try {
    process.kill(pid, 0);
  } catch (error) {
    throw new Error(
      errnoOf(error) === 'EPERM' ? `process ${pid} belongs to another user` : `process ${pid} has ended`,
      { cause: error },
    );
  }
}

/** What brings the node back when presync is killed. */
async function describe(strategy: PauseStrategy): Promise<string> {
  const timer =
    systemdRuns() && (await runProgram(['systemd-run', '--version'], { timeoutMs: 10_000 })).ok
      ? ' and a timer of systemd'
      : '';
  const what = strategy === 'hooks' ? 'the after hook is run' : 'the node is brought back';
  return `${what} by a process of its own${timer} if presync is killed`;
}
