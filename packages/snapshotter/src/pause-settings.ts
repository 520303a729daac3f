import type { PauseSettings } from '@presync/node/pause';
import type { CommandConfig } from '@presync/runtime/commands';

/** The options that say how the node is paused. */
export type PauseConfig = Pick<
  CommandConfig<'snapshot'>,
  | 'pause'
  | 'pid'
  | 'pidFile'
  | 'unit'
  | 'container'
  | 'dockerSocket'
  | 'dockerAction'
  | 'hookBefore'
  | 'hookAfter'
  | 'hookView'
  | 'hookTimeout'
  | 'pauseBudget'
>;

export function pauseSettings(config: PauseConfig): PauseSettings {
  const { pid, pidFile, unit, container, dockerSocket, dockerAction } = config;
  const { hookBefore, hookAfter, hookView } = config;
  return {
    strategy: config.pause,
    ...{ pid, pidFile, unit, container, dockerSocket, dockerAction, hookBefore, hookAfter, hookView },
    hookTimeoutMs: config.hookTimeout,
    budgetMs: config.pauseBudget,
  };
}
