import { isSea } from 'node:sea';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { askEngine, type ContainerState, containerState, pathOf } from './docker-engine.ts';
import type { Emergency, Hold, ReleaseOutcome } from './hold.ts';
import type { PauseTarget } from './pause-target.ts';
import { runProgram } from './run-program.ts';

type ContainerTarget = Extract<PauseTarget, { kind: 'container' }>;

const RELEASE_TIMEOUT_MS = 60_000;

/** A container that the engine pauses, or stops and starts. */
export function createContainerHold(target: ContainerTarget): Hold {
  const { socket, id, action } = target;
  const name = id.slice(0, 12);
  const undo = action === 'pause' ? 'unpause' : 'start';
  const isHeld = async (): Promise<boolean> => isHeldIn(await containerState(socket, id), action);
  return {
    target,
    emergency: emergencyOf(target, undo),
    assertFree: async ({ signal }) => {
      const { running, paused } = await containerState(socket, id, { signal });
      if (!running)
        throw new PresyncError('NODE_NOT_RUNNING', `container ${name} does not run`, {
          hint: 'start the node',
        });
      if (paused) {
        throw new PresyncError(
          'NODE_PAUSE_FAILED',
          `container ${name} is paused already, and not by presync`,
          {
            hint: `find out who paused it; docker unpause ${name} lets it run`,
          },
        );
      }
      await assertEmergencyWorks();
    },
    hold: async ({ timeoutMs, signal }) => {
      // Half of the time is the node's to end in an orderly way; then the engine kills it, which a database survives as well.
      const path = action === 'pause' ? 'pause' : `stop?t=${Math.max(1, Math.floor(timeoutMs / 2000))}`;
      const answer = await askEngine(socket, 'POST', `${pathOf(id)}/${path}`, { timeoutMs, signal });
      throwIfAborted(signal);
      if (answer.status === 204 && (await isHeld())) return;
      throw new PresyncError(
        'NODE_PAUSE_FAILED',
        `the engine did not ${action} container ${name}: ${answer.status} ${answer.message}`,
        { hint: `try "docker ${action} ${name}"` },
      );
    },
    isHeld,
    release: async (): Promise<ReleaseOutcome> => {
      try {
        const before = await containerState(socket, id);
        // A paused container that has ended needs a decision of its owner's, not a start.
        if (action === 'pause' && !before.running) return 'gone';
        if (!isHeldIn(before, action)) return 'running';
        const answer = await askEngine(socket, 'POST', `${pathOf(id)}/${undo}`, {
          timeoutMs: RELEASE_TIMEOUT_MS,
        });
        const after = await containerState(socket, id);
        if (after.running && !after.paused) return 'resumed';
        throw resumeFailed(`${answer.status} ${answer.message}`);
      } catch (error) {
        if (isPresyncError(error, 'NODE_NOT_RUNNING')) return 'gone';
        if (isPresyncError(error, 'NODE_RESUME_FAILED')) throw error;
        throw resumeFailed(messageOf(error), error);
      }
    },
  };

  function resumeFailed(why: string, cause?: unknown): PresyncError {
    return new PresyncError('NODE_RESUME_FAILED', `the engine did not ${undo} container ${name}: ${why}`, {
      cause,
      hint: `run docker ${undo} ${name}`,
    });
  }
}

function isHeldIn({ running, paused }: ContainerState, action: ContainerTarget['action']): boolean {
  return action === 'pause' ? paused : !running;
}

/** A request from Node itself, for machines without curl and without the engine's own command. Arguments: socket, path. */
const NODE_REQUEST = `require('node:http').request({socketPath:process.argv[1],method:'POST',path:process.argv[2],headers:{host:'docker'}},(a)=>{process.exitCode=a.statusCode<400||[404,409].includes(a.statusCode)?0:1;a.resume()}).on('error',()=>{process.exitCode=1}).end()`;

/** 404: there is no such container any more. 409: it is not paused, or it runs. */
function emergencyOf({ socket, id }: ContainerTarget, undo: string): Emergency {
  return {
    script: `
if command -v curl >/dev/null 2>&1; then
  curl -s -i --max-time 60 --unix-socket "$1" -X POST "http://docker$2" | {
    read -r version status rest
    case $status in 2?? | 304 | 404 | 409) ;; *) exit 1 ;; esac
  } && return 0
fi
if command -v docker >/dev/null 2>&1; then
  docker -H "unix://$1" "$3" "$4" && return 0
fi
[ -n "$5" ] && "$5" -e "$6" "$1" "$2"`,
    args: [socket, `${pathOf(id)}/${undo}`, undo, id, isSea() ? '' : process.execPath, NODE_REQUEST],
  };
}

/** @throws NODE_PAUSE_FAILED */
async function assertEmergencyWorks(): Promise<void> {
  if (!isSea()) return;
  const found = await runProgram(['sh', '-c', 'command -v curl || command -v docker'], { timeoutMs: 10_000 });
  if (found.ok) return;
  throw new PresyncError('NODE_PAUSE_FAILED', 'nothing here could bring the container back in an emergency', {
    hint: 'install curl, or the engine’s command; the node was not paused',
  });
}
