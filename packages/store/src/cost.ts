import { PRICES, type Prices } from './prices.ts';
import type { StoreUrl } from './store-url.ts';

/** What is kept in a store, and how it is used. */
export interface Usage {
  /** Bytes of the database. */
  databaseBytes: number;
  /** Stored bytes for each byte of the database. */
  compressed: number;
  /** The part of the database that is new in each snapshot, from 0 to 1. */
  churn: number;
  snapshotsPerDay: number;
  /** Days for which a snapshot is kept. */
  keepDays: number;
  restoresPerMonth: number;
  chunkSize: number;
}

/** What a month amounts to, in bytes and calls. */
export interface Amounts {
  snapshotsKept: number;
  storedBytes: number;
  puts: number;
  gets: number;
  restoredBytes: number;
}

/** US dollars a month. */
export interface Cost {
  provider: string;
  storageClass: string;
  region: string;
  asOf: string;
  page: string;
  storage: number;
  puts: number;
  gets: number;
  /** Of restores over the internet. */
  egress: number;
  /** With restores over the internet. */
  total: number;
  /** With restores by machines of the same cloud and region; undefined where the provider has none. */
  totalInRegion: number | undefined;
  notes: readonly string[];
  /** True for the provider of the store that is checked, as far as its URL tells. */
  thisStore: boolean;
}

const DAYS_PER_MONTH = 365.25 / 12;

/** Objects that a snapshot puts besides its chunks: index, manifest, pointer, a lease, and the proof of conditional writes. */
const PUTS_PER_SNAPSHOT = 8;

/**
 * A steady state: the newest snapshot is there whole, and each older one that is kept adds what was changed after it. Prices of the first
 * gigabytes are taken for all of them, and free allowances are left out, so a real bill is rather lower.
 */
export function amountsOf(usage: Usage, minimumDays = 0): Amounts {
  const { databaseBytes, compressed, churn, snapshotsPerDay, keepDays, restoresPerMonth, chunkSize } = usage;
  const whole = databaseBytes * compressed;
  const snapshotsKept = Math.max(1, Math.ceil(snapshotsPerDay * keepDays));
  const chargedFor = Math.max(snapshotsKept, Math.ceil(snapshotsPerDay * minimumDays));
  const chunks = Math.ceil(databaseBytes / chunkSize);
  return {
    snapshotsKept,
    storedBytes: whole * (1 + churn * (chargedFor - 1)),
    puts: Math.ceil(snapshotsPerDay * DAYS_PER_MONTH * (chunks * churn + PUTS_PER_SNAPSHOT)),
    gets: restoresPerMonth * (chunks + 3),
    restoredBytes: restoresPerMonth * whole,
  };
}

/** What the usage costs at each provider of the table. */
export function costsOf(usage: Usage, url?: StoreUrl): Cost[] {
  return PRICES.map((prices) => costAt(prices, usage, url));
}

function costAt(prices: Prices, usage: Usage, url: StoreUrl | undefined): Cost {
  const { storedBytes, puts, gets, restoredBytes } = amountsOf(usage, prices.minimumDays);
  const stored = storedBytes / prices.gigabyte;
  const leaving = restoredBytes / prices.gigabyte;
  const storage = Math.max(stored, prices.minimumGigabytes) * prices.storage;
  const calls = { puts: (puts / 1000) * prices.puts, gets: (gets / 1000) * prices.gets };
  const egress = Math.max(0, leaving - prices.freeEgress * stored) * prices.egress;
  const local = storage + calls.puts + calls.gets;
  const notes: string[] = [];
  if (prices.minimumDays > usage.keepDays)
    notes.push(
      `what is removed after ${usage.keepDays} days is charged for ${prices.minimumDays} days all the same`,
    );
  if (stored < prices.minimumGigabytes) notes.push(`at least ${prices.minimumGigabytes} GB are charged for`);
  if (prices.freeEgress > 0 && prices.egress === 0 && leaving > prices.freeEgress * stored)
    notes.push('more leaves in a month than is stored, which its terms do not allow');
  const { provider, storageClass, region, asOf, page } = prices;
  return {
    provider,
    storageClass,
    region,
    asOf,
    page,
    storage,
    ...calls,
    egress,
    total: local + egress,
    totalInRegion: prices.ownMachines ? local : undefined,
    notes,
    thisStore: url !== undefined && providerOf(url) === provider,
  };
}

/** The provider that a store URL leads to; undefined when it does not tell. */
function providerOf(url: StoreUrl): string | undefined {
  if (url.kind !== 's3' && url.kind !== 'azure' && url.kind !== 'gcs') return undefined;
  if (url.endpoint === undefined)
    return { s3: 'Amazon S3', azure: 'Azure Blob Storage', gcs: 'Google Cloud Storage' }[url.kind];
  const { hostname } = new URL(url.endpoint);
  const hosts: Readonly<Record<string, RegExp>> = {
    'Amazon S3': /\.amazonaws\.com(\.cn)?$/,
    'Azure Blob Storage': /\.blob\.core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)$/,
    'Google Cloud Storage': /(^|\.)googleapis\.com$/,
    'Cloudflare R2': /\.r2\.cloudflarestorage\.com$/,
    'Backblaze B2': /\.backblazeb2\.com$/,
    Wasabi: /\.wasabisys\.com$/,
  };
  return Object.keys(hosts).find((provider) => hosts[provider]?.test(hostname));
}
