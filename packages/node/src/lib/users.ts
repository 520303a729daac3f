import { runProgram } from './run-program.ts';

/** A user of this machine. */
export interface NodeUser {
  name: string;
  uid: number;
  gid: number;
  home: string;
  shell: string;
}

const QUESTION_TIMEOUT_MS = 5000;

/** Asks the system's user database, whatever it is made of (getent(1)), for a name or a number. Undefined when there is no such user. */
export async function findUser(user: string, signal: AbortSignal): Promise<NodeUser | undefined> {
  const { ok, stdout } = await runProgram(['getent', 'passwd', '--', user], {
    timeoutMs: QUESTION_TIMEOUT_MS,
    signal,
  });
  const [name, , uid, gid, , home, shell] = stdout.split('\n', 1)[0]?.split(':') ?? [];
  if (!ok || name === undefined || uid === undefined || gid === undefined) return undefined;
  return { name, uid: Number(uid), gid: Number(gid), home: home ?? '/', shell: shell ?? '/bin/sh' };
}
