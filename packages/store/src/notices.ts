import type { Logger } from '@presync/runtime/log';
import type { StoreNotice } from './object-store.ts';

/** Writes what stores find out to a log. */
export function logNotices(log: Pick<Logger, 'info' | 'warn'>): (notice: StoreNotice) => void {
  return ({ kind, message }) => log[kind === 'leftover' ? 'warn' : 'info'](`store.${kind}`, message);
}
