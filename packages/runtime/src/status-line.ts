/** What presync writes to: `process.stderr`, or a stand-in. */
export interface TextStream {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
  columns?: number | undefined;
}

/** A terminal on which one line, the last, is redrawn, while log lines pass above it. */
export interface StatusLine {
  /** Draws or replaces the line; without a text it goes away. */
  show(text: string | undefined): void;
  /** Writes lines above it. */
  print(text: string): void;
}

const ERASE = '\r\u001B[2K';

/** On a stream that is no terminal nothing is drawn, and `print` just writes. */
export function createStatusLine(stream: TextStream): StatusLine {
  let shown: string | undefined;
  const draw = (): void => {
    // A line that wraps could not be erased.
    if (shown !== undefined) stream.write(shown.slice(0, Math.max(20, (stream.columns ?? 80) - 1)));
  };
  return {
    show(text) {
      if (stream.isTTY !== true) return;
      if (shown !== undefined) stream.write(ERASE);
      shown = text;
      draw();
    },
    print(text) {
      if (shown !== undefined) stream.write(ERASE);
      stream.write(text);
      if (text.endsWith('\n')) draw();
    },
  };
}
