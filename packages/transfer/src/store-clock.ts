import { measureClockSkew, type ServerTimeOptions } from '@presync/store/server-time';
import { type Clock, createClock } from './clock.ts';

/** The store's clock, where it tells the time; this machine's otherwise. */
export async function createStoreClock(storeUrl: string, options: ServerTimeOptions): Promise<Clock> {
  const skew = await measureClockSkew(storeUrl, options);
  // A clock that is right as far as can be told is left alone.
  return createClock(skew === undefined || Math.abs(skew.skewMs) <= skew.uncertaintyMs ? 0 : skew.skewMs);
}
