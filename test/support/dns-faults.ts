import dns from 'node:dns';
import { seededRandom } from './corruption.ts';

export interface DnsFaults {
  /** The share of lookups that fail, 0 to 1. */
  rate: number;
  /** Lookups that failed. */
  failed: number;
}

/** A name that there is not (RFC 6761). */
const NOWHERE = 'presync.invalid';

/** From now on, a share of this process's lookups of `localhost` ask the resolver for a name that there is not. */
export function installDnsFaults(seed: number): DnsFaults {
  const faults: DnsFaults = { rate: 0, failed: 0 };
  const random = seededRandom(seed);
  const lookup = dns.lookup;
  const faulty = (hostname: string, ...rest: unknown[]): unknown => {
    const fails = hostname === 'localhost' && random() < faults.rate;
    if (fails) faults.failed += 1;
    return Reflect.apply(lookup, dns, [fails ? NOWHERE : hostname, ...rest]);
  };
  // What node:net calls, and nothing else: the overloads and the promisified form stay as they are.
  Object.defineProperty(dns, 'lookup', {
    value: Object.assign(faulty, lookup),
    configurable: true,
    writable: true,
  });
  return faults;
}
