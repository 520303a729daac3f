import { type RecoveredPause, recoverPauses } from '@presync/node/pause';
import type { CommandHandler } from '../command.ts';

/** For people, and for ExecStopPost= of the unit: what it finds nothing of is no failure. */
export const resume: CommandHandler<'resume'> = async ({ config, log, signal }) => {
  const { stateDir } = config;
  const nodes = await recoverPauses({
    stateDir,
    onOutput: (line) => log.info('hook.output', line),
    signal,
  });
  return {
    json: { stateDir, nodes },
    text:
      nodes.length === 0 ? [`No pause that an ended presync has left is in ${stateDir}.`] : nodes.map(lineOf),
  };
};

function lineOf({ node, outcome, byDeadman, intentPath }: RecoveredPause): string {
  switch (outcome) {
    case 'resumed':
      return `${node} was still paused; it runs again.`;
    case 'running':
      return byDeadman ? `${node} runs: the deadman had brought it back.` : `${node} runs already.`;
    case 'gone':
      return `${node} has ended since; nothing was left to bring back.`;
    case 'unreadable':
      return `${intentPath} was no intent to pause; it is removed. Look whether the node runs.`;
  }
}
