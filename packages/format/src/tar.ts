import { once } from 'node:events';
import { pack } from 'tar-stream';

/** A tar block, bytes: headers and contents are padded to it. */
export const TAR_BLOCK = 512;

/** Two zero blocks end an archive. */
export const TAR_END_LENGTH = 2 * TAR_BLOCK;

/** Bytes of padding after `size` bytes of content. */
export function tarPadding(size: number): number {
  const rest = size % TAR_BLOCK;
  return rest === 0 ? 0 : TAR_BLOCK - rest;
}

/**
 * The header of a regular file: one ustar block, with a base-256 size above 8 GiB, or a PAX record (3 blocks) before it when the
 * path does not fit. Normalised (mode 0644, owner 0:0, time 0), so that an unchanged file always gives the same bytes:
 * its true metadata is in the index. The header is part of a chunk's identity, so its bytes are fixed by golden tests.
 */
export async function tarHeader(path: string, size: number): Promise<Buffer> {
  const archive = pack();
  // The entry is never finished: only its header is wanted. Errors of the teardown are of no interest.
  archive.on('error', () => {});
  const entry = archive.entry({
    name: path,
    size,
    mode: 0o644,
    mtime: new Date(0),
    uid: 0,
    gid: 0,
    type: 'file',
  });
  entry.on('error', () => {});
  const blocks: Buffer[] = [];
  for (;;) {
    const block = archive.read() as Buffer | null;
    if (block === null) {
      await once(archive, 'readable');
      continue;
    }
    blocks.push(block);
    // Type flag '0' marks the file's own header; a PAX record ('x') and its content come before it.
    if (block.length === TAR_BLOCK && block[156] === 0x30 && isHeader(block)) break;
  }
  archive.destroy();
  return Buffer.concat(blocks);
}

function isHeader(block: Buffer): boolean {
  return block.toString('latin1', 257, 262) === 'ustar';
}

/** Length of the header that `tarHeader` gives, without making it: PAX is needed only where no prefix split fits. */
export function tarHeaderLength(path: string): number {
  return fitsUstar(path) ? TAR_BLOCK : 3 * TAR_BLOCK;
}

/** tar-stream moves whole leading segments into the prefix (155 bytes) until the name (100 bytes) fits. */
function fitsUstar(path: string): boolean {
  let name = path;
  let prefix = '';
  while (name.length > 100) {
    const slash = name.indexOf('/');
    if (slash === -1) return false;
    prefix = prefix === '' ? name.slice(0, slash) : `${prefix}/${name.slice(0, slash)}`;
    name = name.slice(slash + 1);
  }
  return prefix.length <= 155;
}
