import { type Codec, createCodec } from '@presync/format/codec';
import type { ChunkTask } from '@presync/transfer/lib/chunk-tasks';
import { createWorkbench, doTask, type Workbench } from '@presync/transfer/lib/chunk-work';
import type { ChunkWorkers } from '@presync/transfer/lib/chunk-workers';

const codec: Promise<Codec> = createCodec('caller');

/** The work of the worker threads in this thread: a world has dozens of runs, and a thread takes longer to start than a world takes. */
export function createInlineWorkers(): ChunkWorkers {
  let bench: Workbench | undefined;
  let nextId = 0;
  let queue: Promise<unknown> = Promise.resolve();
  return {
    run: (task: ChunkTask) => {
      const id = nextId++;
      const answer = queue.then(async () => {
        bench ??= createWorkbench(await codec);
        return (await doTask(bench, id, task)).answer;
      });
      queue = answer.catch(() => {});
      // The answer is that of the task's kind, as from a thread.
      return answer as Promise<never>;
    },
    close: async () => {},
  };
}
