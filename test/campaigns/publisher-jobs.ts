/** The program of a process of the publisher campaign. */
import { readFile } from 'node:fs/promises';
import { parsePrivateKey } from '@presync/format/signature';
import { composeStore } from '@presync/store/compose';
import { answerJobs } from '../support/jobs.ts';
import { type PublishResult, publishMany } from './publish-many.ts';

export interface PublisherJob {
  store: string;
  /** Folder of this process alone. */
  dir: string;
  publishers: number;
  rounds: number;
  /** Private key file. */
  key: string;
  /** When all begin, milliseconds since 1970. */
  startAt: number;
  /** Drop the conditions of all puts: what a store without them would do. */
  forgetful?: boolean | undefined;
}

const NEVER = new AbortController().signal;

answerJobs<PublisherJob>(async ({ store: url, key, ...job }): Promise<PublishResult> => {
  const keys = [parsePrivateKey(await readFile(key, 'utf8'), key)];
  return publishMany({
    ...job,
    keys,
    openStore: (metrics) => composeStore(url, { metrics, signal: NEVER }),
  });
});
