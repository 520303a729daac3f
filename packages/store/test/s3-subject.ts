/** What the tests of the S3 store on real servers share: a describe block for each server that can be run here. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe } from 'node:test';
import { ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3';
import { isPresyncError } from '@presync/runtime/errors';
import type { FileBody, ObjectStore, StoreNotice } from '@presync/store/object-store';
import { createS3Store, type S3StoreOptions } from '@presync/store/s3';
import { type Fate, type HttpFront, startHttpFront } from '../../../test/support/http-front.ts';
import { findMinio, startMinio } from '../../../test/support/minio-server.ts';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, type S3Server, startS3Server } from '../../../test/support/s3-server.ts';

export const MIB = 1024 ** 2;

/** The smallest part that S3 takes, and the threshold of the stores here. */
export const PART = 5 * MIB;

export const signal = AbortSignal.timeout(500_000);

interface Program {
  find: () => string | undefined;
  start: (options?: { region?: string; domain?: string }) => Promise<S3Server>;
}

const PROGRAMS = {
  versitygw: { find: findS3Server, start: startS3Server },
  minio: { find: findMinio, start: startMinio },
} as const satisfies Record<string, Program>;

export interface S3Subject {
  name: keyof typeof PROGRAMS;
  readonly server: S3Server;
  /** Speaks to the server past presync. */
  readonly client: S3Client;
  /** What the stores of this test have told. */
  readonly notices: StoreNotice[];
  /** Another server of the kind. */
  start: Program['start'];
  /** A store that is closed after the test. */
  open(options?: Partial<S3StoreOptions>): Promise<ObjectStore>;
  /** A front of the server that is stopped after the test. */
  through(fateOf: (line: string, incoming: IncomingMessage) => Fate | Promise<Fate>): Promise<HttpFront>;
  /** A file of random bytes. */
  file(size: number): Promise<FileBody & { bytes: Buffer }>;
  assertHas(store: ObjectStore, key: string, bytes: Buffer): Promise<void>;
  /** That no upload is left that is neither completed nor aborted. */
  assertNoUploads(): Promise<void>;
}

/** Defines the tests for each server. */
export function onEachServer(define: (subject: S3Subject) => void): void {
  for (const name of ['versitygw', 'minio'] as const) {
    const program: Program = PROGRAMS[name];
    describe(`the S3 store on ${name}`, needs(name, program.find() !== undefined), () => {
      let server: S3Server | undefined;
      let client: S3Client | undefined;
      let dir = '';
      let open: { stop(): Promise<void> }[] = [];
      let notices: StoreNotice[] = [];

      const closeAll = async (): Promise<void> => {
        for (const one of open) await one.stop();
        open = [];
        notices = [];
      };

      before(async () => {
        server = await program.start();
        Object.assign(process.env, server.env);
        client = new S3Client({ endpoint: server.endpoint, region: 'us-east-1', forcePathStyle: true });
        dir = await mkdtemp(join(tmpdir(), 'presync-s3-test-'));
      });
      beforeEach(closeAll);
      after(async () => {
        await closeAll();
        client?.destroy();
        await server?.stop();
        await rm(dir, { recursive: true, force: true });
      });

      const subject: S3Subject = {
        name,
        start: program.start,
        get server() {
          if (server === undefined) throw new Error('there is no server');
          return server;
        },
        get client() {
          if (client === undefined) throw new Error('there is no client');
          return client;
        },
        get notices() {
          return notices;
        },

        async open(options = {}) {
          const told = notices;
          const store = await createS3Store({
            bucket: subject.server.bucket,
            prefix: 'p',
            endpoint: subject.server.endpoint,
            multipartThreshold: PART,
            partSize: PART,
            onNotice: (notice) => told.push(notice),
            ...options,
          });
          open.unshift({ stop: () => store.close() });
          return store;
        },

        async through(fateOf) {
          const front = await startHttpFront(subject.server.endpoint, fateOf);
          open.push(front);
          return front;
        },

        async file(size) {
          const path = join(dir, `body-${randomBytes(4).toString('hex')}`);
          const bytes = randomBytes(size);
          await writeFile(path, bytes);
          return { path, size, bytes };
        },

        async assertHas(store, key, bytes) {
          const read = await store.read(key, { maxBytes: bytes.length, signal });
          assert.ok(bytes.equals(read.bytes), `${key} is not what was put`);
        },

        async assertNoUploads() {
          const command = new ListMultipartUploadsCommand({ Bucket: subject.server.bucket });
          const { Uploads = [] } = await subject.client.send(command);
          assert.deepEqual(
            Uploads.map(({ Key }) => Key),
            [],
          );
        },
      };
      define(subject);
    });
  }
}

/** The outcome of a call as a word: `done`, or the error's code. */
export function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => 'done',
    (error: unknown) => (isPresyncError(error) ? error.code : error),
  );
}

/** S3's own form of a refusal. */
export function refuse(status: number, code: string): Fate {
  return (_, outgoing) => {
    const text = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>as told</Message></Error>`;
    const headers = { 'content-type': 'application/xml', 'content-length': text.length };
    outgoing.writeHead(status, headers).end(text);
  };
}
