import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { DEADMAN_SUFFIX } from './deadman.ts';
import type { Hold, OnOutput, ReleaseOutcome } from './hold.ts';
import { intentPathOf } from './intent.ts';
import type { HooksTarget } from './pause-target.ts';
import { runProgram } from './run-program.ts';

/** In which a hook of an ended presync is waited for, beyond the time that it may take. */
const LOCK_SLACK_SECONDS = 10;

/**
 * Both hooks run under one lock, so that `after` waits for a `before` which a killed presync has left running, and presync and its deadman never run
 * `after` at the same time. The lock is let go by flock itself when the hook ends: it is not passed on to what a hook leaves in the background.
 */
const BEFORE = 'exec flock -o -n "$1" sh -c "$2"';

/** Exit codes of what is below: the lock cannot be had in time; somebody else has run the hook. */
const LOCKED_OUT = 213;
const DONE_ALREADY = 214;

/**
 * `after` runs once: whoever has seen it succeed says so in a file, and without an intent nobody runs it. When the lock cannot be had in time, because
 * `before` hangs, it runs all the same. Arguments: lock file, seconds to wait for it, file that tells that it is done, intent, the hook, seconds that
 * it may take.
 */
const AFTER = `
once='
  [ ! -e "$1" ] || exit ${DONE_ALREADY}
  [ -e "$2" ] || [ -e "$2${DEADMAN_SUFFIX}" ] || exit ${DONE_ALREADY}
  timeout -k 5 "$4" sh -c "$3" && : >"$1"
'
flock -o -E ${LOCKED_OUT} -w "$2" "$1" sh -c "$once" presync-hook "$3" "$4" "$5" "$6"
code=$?
if [ "$code" = ${LOCKED_OUT} ]; then
  sh -c "$once" presync-hook "$3" "$4" "$5" "$6"
  code=$?
fi
# Who comes after the intent has gone has made the lock file anew.
[ -e "$4" ] || [ -e "$4${DEADMAN_SUFFIX}" ] || rm -f "$1"`;

/** Commands of the user's, before and after. */
export function createHooksHold(
  target: HooksTarget,
  options: { onOutput?: OnOutput | undefined } = {},
): Hold {
  const { stateDir, id, timeoutMs, view } = target;
  const lock = join(stateDir, `hook-${id}.lock`);
  const done = join(stateDir, `hook-${id}.done`);
  const waitSeconds = Math.ceil(timeoutMs / 1000) + LOCK_SLACK_SECONDS;
  const limit = Math.ceil(timeoutMs / 1000);
  const intent = intentPathOf(stateDir, id);
  const afterArguments = [lock, String(waitSeconds), done, intent, target.after, String(limit)];
  let held = false;
  return {
    target,
    copy: view ?? undefined,
    emergency: {
      script: `${AFTER}\n[ "$code" = 0 ] || [ "$code" = ${DONE_ALREADY} ]`,
      args: afterArguments,
      environment: environmentOf(target, 'after'),
    },
    assertFree: async ({ signal }) => {
      for (const command of ['flock', 'timeout']) {
        const found = await runProgram([command, '--version'], { timeoutMs: 10_000, signal });
        throwIfAborted(signal);
        if (found.ok) continue;
        throw new PresyncError('NODE_PAUSE_FAILED', `hooks need the command ${command}, which ${found.why}`, {
          hint: 'install util-linux and coreutils',
        });
      }
    },
    hold: async ({ timeoutMs: budgetMs, signal }) => {
      await mkdir(stateDir, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
        throw ioError(error, 'make', stateDir);
      });
      const outcome = await runProgram(['sh', '-c', BEFORE, 'presync-hook', lock, target.before], {
        timeoutMs: view === null ? Math.min(budgetMs, timeoutMs) : timeoutMs,
        signal,
        environment: environmentOf(target, 'before'),
        onOutput: options.onOutput,
      });
      if (outcome.ok) {
        held = true;
        return;
      }
      throwIfAborted(signal);
      throw new PresyncError('NODE_PAUSE_FAILED', `the before hook ${outcome.why}`, {
        hint: 'look at its output in the log; the after hook was run',
      });
    },
    isHeld: async () => held && !existsSync(done),
    release: async (): Promise<ReleaseOutcome> => {
      const outcome = await runProgram(
        ['sh', '-c', `${AFTER}\nexit "$code"`, 'presync-hook', ...afterArguments],
        {
          timeoutMs: timeoutMs + waitSeconds * 1000 + LOCK_SLACK_SECONDS * 1000,
          environment: environmentOf(target, 'after'),
          onOutput: options.onOutput,
        },
      );
      if (outcome.ok) return 'resumed';
      if (outcome.code === DONE_ALREADY) return 'running';
      throw new PresyncError('NODE_RESUME_FAILED', `the after hook ${outcome.why}`, {
        hint: 'look at its output in the log; "presync resume" runs it again',
      });
    },
    cleanUp: async () => {
      for (const path of [lock, done]) {
        await rm(path, { force: true }).catch((error: unknown) => {
          throw ioError(error, 'remove', path);
        });
      }
    },
  };
}

/** Removes what hooks have left of whom no intent is there any more: presync may be killed between the two. */
export async function sweepHookFiles(stateDir: string): Promise<void> {
  // An intent is written before such a file, so that the files are listed first.
  const found = await readdir(stateDir).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw ioError(error, 'list', stateDir);
  });
  for (const name of found) {
    const id = /^hook-([0-9a-f-]{36})\.(?:lock|done)$/.exec(name)?.[1];
    if (id === undefined) continue;
    const intent = intentPathOf(stateDir, id);
    if (existsSync(intent) || existsSync(`${intent}${DEADMAN_SUFFIX}`)) continue;
    const path = join(stateDir, name);
    await rm(path, { force: true }).catch((error: unknown) => {
      throw ioError(error, 'remove', path);
    });
  }
}

/** All that a hook is given, so that it finds the same when the deadman runs it. */
function environmentOf(target: HooksTarget, phase: 'before' | 'after'): Record<string, string> {
  const { PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME = '/' } = process.env;
  return {
    PATH,
    HOME,
    PRESYNC_HOOK_PHASE: phase,
    PRESYNC_HOOK_ID: target.id,
    PRESYNC_HOOK_PATH: target.view ?? '',
    PRESYNC_HOOK_DATABASES: target.databases.join('\n'),
  };
}
