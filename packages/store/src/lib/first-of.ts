export interface Race<W, T> {
  signal: AbortSignal;
  /** After this long without a result, `another` is asked for somebody who tries too. */
  patienceMs: number;
  run(who: W, signal: AbortSignal): Promise<T>;
  /** Who tries as well, given those who did; undefined for nobody. */
  another(tried: readonly W[]): W | undefined;
  /** Told of each that was stopped because another one was faster. */
  onLost(who: W): void;
}

/**
 * The result of the first to succeed. A second try begins when the first one is slow, and a further one whenever one that was added
 * fails; the others are stopped at the end. When all fail, the error of the first that failed is thrown.
 */
export async function firstOf<W, T>(first: W, race: Race<W, T>): Promise<{ who: W; result: T }> {
  const over = new AbortController();
  const signal = AbortSignal.any([race.signal, over.signal]);
  const tried: W[] = [];
  /** One entry a try: the same one may try twice. */
  const running = new Set<{ who: W }>();
  const errors: unknown[] = [];
  const { promise, resolve, reject } = Promise.withResolvers<{ who: W; result: T }>();

  function start(who: W): void {
    const attempt = { who };
    tried.push(who);
    running.add(attempt);
    race.run(who, signal).then(
      (result) => {
        running.delete(attempt);
        resolve({ who, result });
      },
      (error: unknown) => {
        running.delete(attempt);
        errors.push(error);
        if (running.size === 0) reject(errors[0]);
        else add();
      },
    );
  }

  function add(): void {
    if (signal.aborted) return;
    const who = race.another(tried);
    if (who !== undefined) start(who);
  }

  start(first);
  const timer = setTimeout(add, race.patienceMs);
  try {
    const won = await promise;
    for (const { who } of running) race.onLost(who);
    return won;
  } finally {
    clearTimeout(timer);
    over.abort();
  }
}
