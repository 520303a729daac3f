/**
 * Runs `worker` so many times side by side, each with a signal that fires with `signal` or when another one fails. When all have ended,
 * the first failure is thrown.
 */
export async function inParallel(
  workers: number,
  signal: AbortSignal,
  worker: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  const failures: unknown[] = [];
  await Promise.all(
    Array.from({ length: workers }, () =>
      worker(both).catch((error: unknown) => {
        failures.push(error);
        stop.abort();
      }),
    ),
  );
  if (failures.length > 0) throw failures[0];
}
