/** Iterates over what `open` gives, each step made by `around`. Closes the source when the consumer stops early. */
export async function* stepwise<T>(
  open: () => AsyncIterable<T>,
  around: (step: () => Promise<IteratorResult<T>>) => Promise<IteratorResult<T>>,
): AsyncGenerator<T> {
  const source = open()[Symbol.asyncIterator]();
  let ended = false;
  try {
    for (;;) {
      const step = await around(() => source.next());
      if (step.done) {
        ended = true;
        return;
      }
      yield step.value;
    }
  } finally {
    if (!ended) await source.return?.();
  }
}
