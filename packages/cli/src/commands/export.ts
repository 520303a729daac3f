import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { composeFind } from '@presync/bootstrap/compose';
import { findSnapshot } from '@presync/bootstrap/find-snapshot';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import { exportSnapshot } from '@presync/transfer/export';
import type { CommandHandler } from '../command.ts';

export const exportArchive: CommandHandler<'export'> = async ({
  config,
  log,
  progress,
  signal,
  stdout,
  json,
}) => {
  const { out } = config;
  const toStdout = out === '-';
  if (toStdout && json) {
    throw new PresyncError('USAGE', 'the archive and the JSON document cannot both go to stdout', {
      hint: 'name a file with --out, or leave --json out',
    });
  }
  if (!toStdout) await assertFree(out);
  const options = await composeFind(config, { log, signal });
  const started = performance.now();
  const temporary = `${out}.part`;
  let file: FileHandle | undefined;
  try {
    const { repository, channel, snapshot } = await findSnapshot(options);
    const { manifest } = snapshot;
    progress.start({ label: `Export of ${channel}#${manifest.sequence}`, total: manifest.totals.bytes });
    if (!toStdout) file = await openNew(temporary);
    const target = file;
    const { files, bytes } = await exportSnapshot({
      repository,
      snapshot,
      assertFile: (entry) => assertDatabaseFile(manifest, entry),
      write: async (frame) => {
        if (target === undefined) await stdout.write(frame);
        else await append(target, frame, temporary);
      },
      scratchDir: options.stateDir,
      concurrency: config.concurrency,
      onProgress: (plain) => progress.advance(plain),
      onEvent: (event, message, details) => log.info(event, message, details),
      signal,
    });
    progress.finish();
    if (file !== undefined) {
      await file.sync();
      await file.close();
      file = undefined;
      await rename(temporary, out);
    }
    const seconds = (performance.now() - started) / 1000;
    const name = `${channel}#${manifest.sequence}`;
    return {
      json: { channel, sequence: manifest.sequence, out, files, bytes, parts: manifest.node.parts, seconds },
      text: toStdout
        ? []
        : [
            `${name} is written to ${out}: ${files} files, ${formatBytes(bytes)}, in ${formatDuration(seconds * 1000)}.`,
            `Restore it with: zstd -d < ${out} | tar -x -C BASE-PATH`,
          ],
    };
  } finally {
    if (file !== undefined) {
      await file.close();
      await rm(temporary, { force: true });
    }
    await options.from.close();
  }
};

async function assertFree(out: string): Promise<void> {
  try {
    await stat(out);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw ioError(error, 'write', out);
  }
  throw new PresyncError('CONFIG_INVALID', `${out} is there already`, {
    hint: 'name another file with --out, or remove this one',
  });
}

async function openNew(path: string): Promise<FileHandle> {
  try {
    // What a killed export left behind is none of anybody's.
    return await open(path, 'w', 0o644);
  } catch (error) {
    throw ioError(error, `write into ${dirname(path)}, as`, path);
  }
}

async function append(file: FileHandle, bytes: Uint8Array, path: string): Promise<void> {
  try {
    await file.writeFile(bytes);
  } catch (error) {
    throw ioError(error, 'write', path);
  }
}
