import { zstdDecompressSync } from 'node:zlib';
import { type CollectorRun, SKEW_MS } from './scheduler.ts';

/** What is visible in a store, kept beside it, so that each change can be judged when it happens. */
export interface Model {
  /** Told of each change that was carried out. */
  put(key: string, bytes: Uint8Array): void;
  /** `run`: that of the collector that removes it. */
  remove(key: string, run: CollectorRun | undefined): void;
  /** What nobody needs although it is there. */
  garbage(): string[];
  has(key: string): boolean;
  /** What went wrong. */
  readonly violations: string[];
}

const MANIFEST = /^(snapshots\/.+\/[0-9]+\/)manifest\.json$/;

export function createModel(now: () => number): Model {
  const objects = new Set<string>();
  /** What each manifest said first: a number that is used again names something else. */
  const numbers = new Map<string, Uint8Array>();
  /** What each lease names, and since when it is there. */
  const leases = new Map<string, { manifest: string; since: number; expires: number }>();
  /** What each index names. */
  const named = new Map<string, string[]>();
  /** How many visible manifests name a key. */
  const needed = new Map<string, number>();
  /** When each collection was begun, by that collector's clock, and what has a tombstone in it. */
  const collections = new Map<string, { created: number; keys: Set<string> }>();
  const pointers = new Map<string, string>();
  const violations: string[] = [];

  function count(prefix: string, change: 1 | -1): void {
    for (const key of [`${prefix}index.zst`, ...(named.get(prefix) ?? [])])
      needed.set(key, (needed.get(key) ?? 0) + change);
  }

  function isGarbage(key: string): boolean {
    if (/^(?:tombstones|leases)\//.test(key)) return true;
    if (key.startsWith('chunks/')) return (needed.get(key) ?? 0) === 0;
    const [, channel = '', sequence] =
      /^snapshots\/(.+)\/([0-9]+)\/(?:index\.zst|proof\.json)$/.exec(key) ?? [];
    if (sequence === undefined || objects.has(`snapshots/${channel}/${sequence}/manifest.json`)) return false;
    // An index above the newest holds its number.
    return Number(sequence) < newestOf(channel);
  }

  /** 0 when there is none. */
  function newestOf(channel: string): number {
    const manifest = pointers.get(`channels/${channel}/latest.json`) ?? '';
    return Number(/\/([0-9]+)\/manifest\.json$/.exec(manifest)?.[1] ?? 0);
  }

  return {
    violations,
    has: (key) => objects.has(key),
    garbage: () => [...objects].filter((key) => isGarbage(key)),
    put(key, bytes) {
      const isNew = !objects.has(key);
      objects.add(key);
      const [, prefix] = MANIFEST.exec(key) ?? [];
      if (key.endsWith('/index.zst')) named.set(key.slice(0, -'index.zst'.length), chunksOf(bytes));
      const [, id = '', part] = /^tombstones\/([^/]+)\/(?:state\.json$|(parts)\/)/.exec(key) ?? [];
      if (id !== '') {
        const collection = collections.get(id) ?? { created: 0, keys: new Set() };
        collections.set(id, collection);
        const text = Buffer.from(bytes).toString();
        if (part === undefined) collection.created = Date.parse(JSON.parse(text).created);
        else
          for (const line of text.trimEnd().split('\n'))
            collection.keys.add(line.slice(line.indexOf(' ') + 1));
      }
      if (key.startsWith('leases/')) {
        const { channel, sequence, expires } = JSON.parse(Buffer.from(bytes).toString());
        const manifest = `snapshots/${channel}/${sequence}/manifest.json`;
        const since = leases.get(key)?.since ?? now();
        leases.set(key, { manifest, since, expires: Date.parse(expires) });
      }
      if (key.endsWith('/latest.json')) {
        const { channel, sequence } = JSON.parse(Buffer.from(bytes).toString());
        const manifest = `snapshots/${channel}/${sequence}/manifest.json`;
        if (Number(sequence) < newestOf(channel)) violations.push(`${key} is moved back to ${sequence}`);
        pointers.set(key, manifest);
        if (!objects.has(manifest)) violations.push(`${key} names ${manifest}, which is not there`);
      }
      if (prefix === undefined || !isNew) return;
      if (Buffer.compare(numbers.get(key) ?? bytes, bytes) !== 0)
        violations.push(`${key} is put, and was that of another snapshot before`);
      numbers.set(key, bytes);
      count(prefix, 1);
      for (const name of [`${prefix}index.zst`, ...(named.get(prefix) ?? [])])
        if (!objects.has(name)) violations.push(`${key} is put, and ${name} is not there`);
    },
    remove(key, run) {
      if (!objects.delete(key)) return;
      leases.delete(key);
      const [, prefix] = MANIFEST.exec(key) ?? [];
      if (prefix !== undefined) {
        count(prefix, -1);
        if ([...pointers.values()].includes(key)) violations.push(`${key} is removed, and is the newest`);
        for (const [lease, { manifest, since: there, expires }] of leases)
          if (manifest === key && run !== undefined && there < run.since && now() < expires)
            violations.push(`${key} is removed, and ${lease} has named it since before that run began`);
      }
      if (run !== undefined && /^chunks\/|\/index\.zst$/.test(key)) {
        const tombstones = [...collections.values()].filter(({ keys }) => keys.has(key));
        if (!tombstones.some(({ created }) => now() - created >= run.graceMs - SKEW_MS))
          violations.push(`${key} is removed before the grace is over`);
      }
      if (key.endsWith('/proof.json') && objects.has(key.replace('proof.json', 'manifest.json')))
        violations.push(`${key} is removed, and the manifest that it is about is there`);
      if ((needed.get(key) ?? 0) > 0) violations.push(`${key} is removed, and a manifest names it`);
    },
  };
}

function chunksOf(index: Uint8Array): string[] {
  return zstdDecompressSync(index)
    .toString()
    .split('\n')
    .flatMap((line) => /^\{"chunk":"([0-9a-f]{64})"/.exec(line)?.[1] ?? [])
    .map((sha256) => `chunks/${sha256.slice(0, 2)}/${sha256}`);
}
