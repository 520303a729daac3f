/** Processes that are told apart although their numbers come again, from /proc. */
export { isAlive, ownProcess, type ProcessId, processStatus } from './lib/proc.ts';
