import { errnoOf, ioError, messageOf, PresyncError } from '@presync/runtime/errors';

const TRANSIENT = new Set(['EAGAIN', 'EBUSY', 'EMFILE', 'ENFILE', 'EINTR', 'ESTALE', 'ETIMEDOUT']);

/** Turns a system error on a path in a file store into the PresyncError of the contract. */
export function fileError(error: unknown, action: string, path: string): PresyncError {
  if (error instanceof PresyncError) return error;
  const code = errnoOf(error) ?? '';
  const message = `cannot ${action} ${path}: ${messageOf(error)}`;
  if (code === 'EACCES' || code === 'EPERM') {
    return new PresyncError('STORE_FORBIDDEN', message, {
      cause: error,
      hint: 'give this user access to the store folder',
    });
  }
  if (code === 'EROFS') {
    return new PresyncError('STORE_READ_ONLY', message, {
      cause: error,
      hint: 'mount the file system of the store writable',
    });
  }
  if (code === 'ENOSPC' || code === 'EDQUOT') return ioError(error, action, path);
  if (code === 'ELOOP') return symlinkInside(path, error);
  if (code === 'ENOTDIR' || code === 'EISDIR') {
    return new PresyncError('STORE_FAILED', message, {
      cause: error,
      hint: 'something in the store folder is a file where a folder is needed, or the reverse',
    });
  }
  return new PresyncError('STORE_FAILED', message, {
    cause: error,
    retryable: TRANSIENT.has(code),
    hint: 'look at the disk and the file system of the store',
  });
}

/** The store has a symbolic link in it, which could lead anywhere. */
export function symlinkInside(path: string, cause?: unknown): PresyncError {
  return new PresyncError(
    'STORE_FAILED',
    `${path} is a symbolic link, and a file store follows none inside itself`,
    {
      cause,
      hint: 'replace the link by what it points to; to keep the store elsewhere, mount it or link the store folder itself',
    },
  );
}

/** The folder of the store is missing. */
export function storeMissing(root: string, cause: unknown): PresyncError {
  return new PresyncError('STORE_NOT_FOUND', `the store folder ${root} does not exist`, {
    cause,
    hint: 'look at the path, and at whether the file system that holds it is mounted; the first snapshot creates the folder',
  });
}
