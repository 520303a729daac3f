import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { zeroDigest } from '@presync/format/digest';
import type { IndexedChunk, IndexedFile, StoredChunk } from '@presync/format/index-file';
import { errnoOf, ioError, isPresyncError } from '@presync/runtime/errors';
import { readJournal } from './lib/journal.ts';
import { chunksOf } from './lib/local-index.ts';
import {
  type CountedRoom,
  countRoom,
  isOnSeveralDisks,
  type RoomNeed,
  roomNeeds,
} from './lib/restore-room.ts';
import { allPaths, journalPath, type PartPaths, partOf, readState } from './lib/stage.ts';
import { partTargets, type RestorePlaces } from './part-targets.ts';
import type { Repository, Snapshot } from './repository.ts';

export type { RoomNeed } from './lib/restore-room.ts';

export interface SurveyOptions extends RestorePlaces {
  repository: Repository;
  snapshot: Snapshot;
  /** The snapshot's index, downloaded and proved. */
  index: string;
  /** Chunks of the old database are taken from it. */
  reuse: boolean;
  /** Called for each file of the index; throws to refuse it. */
  assertFile: (file: IndexedFile) => void;
  signal: AbortSignal;
}

/** What a restore would do here, as far as that can be told without reading the database that is there. */
export interface RestoreSurvey {
  /** Bytes of objects that come from the store at most. */
  fetchBytes: number;
  fetchChunks: number;
  /** Bytes that an interrupted attempt at this snapshot has put in place, by its own notes; not among `fetchBytes`. */
  inPlaceBytes: number;
  /** Of `fetchBytes`, those whose files never change and are there under the same name and size: they are most likely reused. */
  likelyReused: number;
  /** Of `fetchBytes`, those of files that change in place, of which only reading the old database can tell what is the same. */
  perhapsReused: number;
  room: RoomNeed[];
  /** The sequence of the snapshot whose restore was begun here and not finished. */
  interrupted: number | undefined;
  /** Some of the chunks that come, chosen by chance. */
  sample: StoredChunk[];
}

const SAMPLE = 16;

/** Writes nothing. */
export async function surveyRestore(options: SurveyOptions): Promise<RestoreSurvey> {
  const { repository, snapshot, index, signal } = options;
  const { manifest, sha256 } = snapshot;
  const parts = allPaths(partTargets(manifest, options));
  const [first] = parts.filter(({ within }) => within === undefined);
  try {
    const state = first === undefined ? undefined : await readState(first);
    const ofThis = state !== undefined && 'manifest' in state && state.manifest === sha256;
    const inPlace =
      first !== undefined && ofThis
        ? await readJournal(journalPath(first), manifest.totals.chunks)
        : () => false;
    const survey: RestoreSurvey = {
      fetchBytes: 0,
      fetchChunks: 0,
      inPlaceBytes: 0,
      likelyReused: 0,
      perhapsReused: 0,
      room: [],
      interrupted: state !== undefined && 'sequence' in state ? state.sequence : undefined,
      sample: [],
    };
    const there = new Map<IndexedFile, Old>();
    const counted: CountedRoom | undefined = (await isOnSeveralDisks(parts)) ? new Map() : undefined;
    for await (const chunk of chunksOf(repository, manifest, index, signal)) {
      for (const file of chunk.begins) {
        options.assertFile(file);
        const part = partOf(parts, file);
        if (options.reuse) there.set(file, await oldOf(part, file));
      }
      if (counted !== undefined) countRoom(counted, chunk, repository.chunkSize, parts);
      if (chunk.segments.length === 0 || chunk.sha256 === zeroDigest(repository.chunkSize)) continue;
      if (inPlace(chunk.ordinal)) survey.inPlaceBytes += chunk.storedSize;
      else count(survey, chunk, (file) => there.get(file) ?? 'absent');
      if (chunk.completes !== undefined) there.delete(chunk.completes);
    }
    survey.room = await roomNeeds(parts, manifest, counted);
    return survey;
  } catch (error) {
    throw errnoOf(error) === undefined || isPresyncError(error)
      ? error
      : ioError(error, 'look at', options.basePath);
  }
}

/** What the old database has under a file's name. */
type Old = 'same' | 'perhaps' | 'absent';

async function oldOf({ target }: PartPaths, file: IndexedFile): Promise<Old> {
  const path = join(target, basename(file.path));
  try {
    const { size } = await stat(path);
    if (file.class !== 'immutable') return 'perhaps';
    return size === file.size ? 'same' : 'absent';
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return 'absent';
    throw ioError(error, 'look at', dirname(path));
  }
}

function count(survey: RestoreSurvey, chunk: IndexedChunk, oldOfFile: (file: IndexedFile) => Old): void {
  const { storedSize } = chunk;
  survey.fetchBytes += storedSize;
  survey.fetchChunks += 1;
  const olds = chunk.segments.map(({ file }) => oldOfFile(file));
  if (olds.every((old) => old === 'same')) survey.likelyReused += storedSize;
  else if (olds.every((old) => old !== 'absent')) survey.perhapsReused += storedSize;
  const place =
    survey.fetchChunks <= SAMPLE ? survey.fetchChunks - 1 : Math.floor(Math.random() * survey.fetchChunks);
  if (place >= SAMPLE) return;
  const { sha256, length, storedSha256 } = chunk;
  survey.sample[place] = { sha256, length, storedSize, storedSha256 };
}
