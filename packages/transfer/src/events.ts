import type { EventName } from '@presync/runtime/events';

/** Told of what happens, with a stable name for it. */
export type OnEvent = (event: EventName, message: string, details: Record<string, unknown>) => void;
