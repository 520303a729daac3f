/** A chunk worker: does its tasks in a thread of its own. See `docs/decisions` for why. */

import { parentPort } from 'node:worker_threads';
import { createCodec } from '@presync/format/codec';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import type { AnswerMessage, TaskMessage } from './chunk-tasks.ts';
import { createWorkbench, doTask } from './chunk-work.ts';

const port = parentPort;
if (port === null) throw new PresyncError('INTERNAL', 'the chunk worker was not started as a worker thread');
const bench = createCodec('caller').then(createWorkbench);
// One task after the other: what runs side by side runs in other workers.
let queue: Promise<unknown> = Promise.resolve();
port.on('message', ({ id, task }: TaskMessage) => {
  queue = queue.then(async () => {
    try {
      const { answer, transfer } = await doTask(await bench, id, task);
      port.postMessage({ id, ok: true, answer } satisfies AnswerMessage, transfer);
    } catch (error) {
      const known = isPresyncError(error) ? error : undefined;
      const failure = {
        code: known?.code ?? 'INTERNAL',
        message: messageOf(error),
        hint: known?.hint,
        stack: error instanceof Error ? error.stack : undefined,
      } as const;
      port.postMessage({ id, ok: false, error: failure } satisfies AnswerMessage);
    }
  });
});
