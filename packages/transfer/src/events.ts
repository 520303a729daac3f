/** Told of what happens, with a stable name for it. */
export type OnEvent = (
  event: `${string}.${string}`,
  message: string,
  details: Record<string, unknown>,
) => void;
