import { availableParallelism } from 'node:os';
import { getAsset, isSea } from 'node:sea';
import { Worker } from 'node:worker_threads';
import { PresyncError } from '@presync/runtime/errors';
import type { AnswerMessage, ChunkAnswers, ChunkTask, TaskKind } from './chunk-tasks.ts';

/** The worker threads of one run. */
export interface ChunkWorkers {
  /** Runs a task in the worker that has the least to do. A task about kept plaintext goes to the worker that keeps it. */
  run<K extends TaskKind>(task: ChunkTask & { kind: K }): Promise<ChunkAnswers[K]>;
  /** Ends the threads; tasks under way are given up. To be called once, when no result is wanted any more. */
  close(): Promise<void>;
}

/** Each thread holds a heap and some buffers of a chunk's size: a snapshot took 408 MiB with four and 553 MiB with eight, and may take 512. */
const MAX_WORKERS = 4;

interface Member {
  worker: Worker;
  load: number;
  /** Set when the thread has ended, whatever the reason. */
  ended: boolean;
  cause: unknown;
}

interface Waiting {
  member: Member;
  resolve(answer: ChunkAnswers[TaskKind]): void;
  reject(error: unknown): void;
}

/** Starts the threads: as many as cores, but no more than chunks that may be in flight. */
export function createChunkWorkers({ concurrency }: { concurrency: number }): ChunkWorkers {
  const waiting = new Map<number, Waiting>();
  /** Which worker keeps the plaintext that a `read` task left there. */
  const keepers = new Map<number, Member>();
  let nextId = 0;
  const members: Member[] = [];
  for (let n = 0; n < Math.min(MAX_WORKERS, concurrency, availableParallelism()); n++) members.push(start());

  function start(): Member {
    const member: Member = {
      worker: startThread(),
      load: 0,
      ended: false,
      cause: undefined,
    };
    member.worker.on('message', (message: AnswerMessage) => {
      const entry = waiting.get(message.id);
      if (entry === undefined) return;
      waiting.delete(message.id);
      member.load -= 1;
      if (message.ok) {
        entry.resolve(message.answer);
        return;
      }
      const { code, message: text, hint, stack } = message.error;
      const error = new PresyncError(code, text, { hint });
      if (code === 'INTERNAL' && stack !== undefined) error.stack = stack;
      entry.reject(error);
    });
    // A thread that dies takes its tasks with it, whoever waits for them must hear of it.
    member.worker.on('error', (error) => fail(member, error));
    member.worker.on('exit', () => fail(member, undefined));
    return member;
  }

  function fail(member: Member, cause: unknown): void {
    member.ended = true;
    member.cause ??= cause;
    for (const [id, entry] of waiting) {
      if (entry.member !== member) continue;
      waiting.delete(id);
      entry.reject(lost(member));
    }
  }

  return {
    run<K extends TaskKind>(task: ChunkTask & { kind: K }): Promise<ChunkAnswers[K]> {
      const id = nextId++;
      const keeper = 'kept' in task ? keepers.get(task.kept) : undefined;
      if ('kept' in task) keepers.delete(task.kept);
      // A thread that has ended has nothing to do any more, and must not be taken for an idle one.
      const member =
        keeper ??
        members.reduce((least, other) =>
          least.ended || (!other.ended && other.load < least.load) ? other : least,
        );
      if (task.kind === 'read') keepers.set(id, member);
      member.load += 1;
      const frame = 'frame' in task && ownsItsBuffer(task.frame) ? [task.frame.buffer] : [];
      const answer = new Promise<ChunkAnswers[TaskKind]>((resolve, reject) => {
        if (member.ended) throw lost(member);
        waiting.set(id, { member, resolve, reject });
        member.worker.postMessage({ id, task }, frame);
      });
      // The worker answers a task with the answer of its kind.
      return answer as Promise<ChunkAnswers[K]>;
    },
    async close() {
      await Promise.all(members.map(({ worker }) => worker.terminate()));
    },
  };
}

/** The single executable holds the worker's code; elsewhere it is a file. */
function startThread(): Worker {
  if (!isSea()) return new Worker(new URL('./chunk-worker.ts', import.meta.url));
  return new Worker(getAsset('chunk-worker.cjs', 'utf8'), { eval: true });
}

/** A view on a larger buffer (Node's pool) is copied to the worker: handing over would take the neighbours' bytes away. */
function ownsItsBuffer(bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> {
  return (
    bytes.buffer instanceof ArrayBuffer &&
    bytes.byteOffset === 0 &&
    bytes.byteLength === bytes.buffer.byteLength
  );
}

function lost({ cause }: Member): PresyncError {
  return new PresyncError('INTERNAL', 'a worker thread has ended', {
    cause,
    hint: 'look at the memory of the machine, and run it again',
  });
}
