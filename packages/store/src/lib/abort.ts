import { throwIfAborted } from '@presync/runtime/errors';

/** The promise's outcome, or a rejection as of `throwIfAborted` when the signal fires first. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    // Of a signal that lives long, only a derived one: listeners on it would pile up.
    const watched = AbortSignal.any([signal]);
    const leave = (): void => {
      try {
        throwIfAborted(signal);
      } catch (error) {
        reject(error);
      }
    };
    watched.addEventListener('abort', leave, { once: true });
    if (watched.aborted) leave();
    promise.then(resolve, reject).finally(() => watched.removeEventListener('abort', leave));
  });
}
