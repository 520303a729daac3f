// The throttle as a process of its own, so that its CPU time is counted apart. Started by `startThrottleProcess`.
import { startThrottle, type ThrottleOptions } from './throttle.ts';

const [port, rate, firstByteMs] = process.argv.slice(2).map(Number);
const options: ThrottleOptions = {
  upstreamPort: port ?? 0,
  bytesPerSecond: rate !== undefined && rate > 0 ? rate : Number.POSITIVE_INFINITY,
  firstByteMs: firstByteMs ?? 0,
};
const throttle = await startThrottle(options);
process.on('message', () => process.send?.({ ...throttle.counters() }));
// Ends with its parent.
process.on('disconnect', () => process.exit(0));
process.send?.({ port: throttle.port });
