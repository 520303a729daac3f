import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** A small seeded generator (mulberry32): the same seed gives the same campaign. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface Damage {
  /** What was done to which object, for a failing test. */
  what: string;
  /** Any of these in a message counts as naming the damage. */
  names: string[];
  undo(): Promise<void>;
}

export interface CorruptOptions {
  /** The folder of a `file:` store. */
  storeDir: string;
  channel: string;
  /** The newest snapshot; the damage is done to what it needs. */
  sequence: number;
  /** Digests of the chunks that the newest snapshot needs; default all in the store. */
  chunks?: readonly string[] | undefined;
  random: () => number;
}

const KINDS = ['flip', 'truncate', 'swap', 'delete', 'replay', 'extend'] as const;

/** Damages one object of a repository at random, keeps a copy of what it was, and says what it did. */
export async function corruptRepository(options: CorruptOptions): Promise<Damage> {
  const { storeDir, channel, sequence, random } = options;
  const kind = pick(KINDS, random);
  if (kind === 'replay') return replay(options);
  const key = await pickObject(options);
  const path = join(storeDir, key);
  const original = await readFile(path);
  const undo = (): Promise<void> => writeFile(path, original);
  const names = namesOf(key, channel, sequence);
  switch (kind) {
    case 'flip': {
      const damaged = Buffer.from(original);
      const at = Math.floor(random() * damaged.length);
      const bit = 1 << Math.floor(random() * 8);
      damaged[at] = (damaged[at] ?? 0) ^ bit;
      await writeFile(path, damaged);
      return { what: `bit ${bit} of byte ${at} of ${key} flipped`, names, undo };
    }
    case 'truncate': {
      const length = Math.floor(random() * original.length);
      await writeFile(path, original.subarray(0, length));
      return { what: `${key} cut from ${original.length} to ${length} bytes`, names, undo };
    }
    case 'extend': {
      await writeFile(
        path,
        Buffer.concat([original, original.subarray(0, 1 + Math.floor(random() * original.length))]),
      );
      return { what: `${key} continued with its own beginning`, names, undo };
    }
    case 'delete':
      await rm(path);
      return { what: `${key} deleted`, names, undo };
    case 'swap': {
      const other = await otherOfKind(storeDir, key, random);
      // Two snapshots of an unchanged database have the same index: to swap those damages nothing.
      if (other === undefined || (await readFile(join(storeDir, other))).equals(original)) {
        await rm(path);
        return { what: `${key} deleted, for want of another to swap with`, names, undo };
      }
      const otherPath = join(storeDir, other);
      const otherBytes = await readFile(otherPath);
      await writeFile(path, otherBytes);
      await writeFile(otherPath, original);
      return {
        what: `${key} and ${other} swapped`,
        names: [...names, ...namesOf(other, channel, sequence)],
        undo: async () => {
          await undo();
          await writeFile(otherPath, otherBytes);
        },
      };
    }
  }
}

/** Puts an older snapshot's pointer, with its true manifest, in the place of the newest one. */
async function replay({ storeDir, channel, sequence, random }: CorruptOptions): Promise<Damage> {
  const path = join(storeDir, 'channels', channel, 'latest.json');
  const original = await readFile(path);
  const older = 1 + Math.floor(random() * (sequence - 1));
  const { createHash } = await import('node:crypto');
  const manifest = await readFile(join(storeDir, 'snapshots', channel, String(older), 'manifest.json'));
  const sha256 = createHash('sha256').update(manifest).digest('hex');
  const document = {
    presync: 'latest',
    version: 1,
    channel,
    sequence: older,
    manifest: { size: manifest.length, sha256 },
  };
  await writeFile(path, `${JSON.stringify(document, null, 2)}\n`);
  return {
    what: `latest.json replayed from snapshot ${older}`,
    names: [`${channel}#${older}`, 'latest.json'],
    undo: () => writeFile(path, original),
  };
}

async function pickObject({ storeDir, channel, sequence, chunks, random }: CorruptOptions): Promise<string> {
  // Chunks are most of a repository, and documents most of what can go wrong: both get their share.
  if (random() < 0.4) {
    return pick(
      [
        'presync.json',
        `channels/${channel}/latest.json`,
        `snapshots/${channel}/${sequence}/manifest.json`,
        `snapshots/${channel}/${sequence}/index.zst`,
      ],
      random,
    );
  }
  const all = chunks ?? (await storedChunks(storeDir));
  const digest = pick(all, random);
  return `chunks/${digest.slice(0, 2)}/${digest}`;
}

export async function storedChunks(storeDir: string): Promise<string[]> {
  const found: string[] = [];
  for (const folder of (await readdir(join(storeDir, 'chunks'))).sort())
    found.push(...(await readdir(join(storeDir, 'chunks', folder))).sort());
  return found;
}

/** Another object of the same kind, so that only digests can tell. */
async function otherOfKind(storeDir: string, key: string, random: () => number): Promise<string | undefined> {
  if (key.startsWith('chunks/')) {
    const others = (await storedChunks(storeDir)).filter((digest) => digest !== basename(key));
    const digest = pick(others, random);
    return `chunks/${digest.slice(0, 2)}/${digest}`;
  }
  if (!key.startsWith('snapshots/')) return undefined;
  const folder = dirname(dirname(key));
  const others = (await readdir(join(storeDir, folder))).filter((name) => name !== basename(dirname(key)));
  return others.length === 0 ? undefined : `${folder}/${pick(others, random)}/${basename(key)}`;
}

function namesOf(key: string, channel: string, sequence: number): string[] {
  if (key.startsWith('chunks/')) return [basename(key)];
  if (key.endsWith('index.zst')) return [key, `index of ${channel}#${sequence}`];
  return [basename(key), channel];
}

function pick<T>(values: readonly T[], random: () => number): T {
  const value = values[Math.floor(random() * values.length)];
  if (value === undefined) throw new Error('nothing to pick from');
  return value;
}
