import { PresyncError } from '@presync/runtime/errors';
import { TAR_BLOCK, TAR_END_LENGTH, tarPadding } from '../tar.ts';

/**
 * Watches that an archive ends as tar wants it: two blocks of zeros or more, and nothing after them. tar-stream takes an archive
 * that was cut between two files for a whole one, and reads on after an end where GNU tar stops.
 */
export interface TarEnd {
  /** The next bytes of the archive, before they are parsed. */
  see(bytes: Uint8Array): void;
  /** A file was found: where its content begins, and how long that is. Throws FORMAT_INVALID behind an end. */
  file(contentOffset: number, size: number): void;
  /** Nothing follows. Throws FORMAT_INVALID unless the archive is whole. */
  finish(): void;
}

const ZEROS = Buffer.alloc(TAR_BLOCK);

export function createTarEnd(what: string): TarEnd {
  /** Bytes seen. */
  let seen = 0;
  /** Where the last file that was found ends, with its padding. What lies before it is content. */
  let end = 0;
  /** Stretches of zero blocks behind `end`, from and to. Few: files are found at the pace at which bytes are seen. */
  let zeros: [from: number, to: number][] = [];
  /** True while the block that is being seen is zero so far. */
  let zero = false;

  function block(from: number): void {
    const last = zeros.at(-1);
    if (last?.[1] === from) last[1] = from + TAR_BLOCK;
    else zeros.push([from, from + TAR_BLOCK]);
  }

  return {
    see(bytes) {
      for (let at = Math.max(0, end - seen); at < bytes.length; ) {
        const within = (seen + at) % TAR_BLOCK;
        const length = Math.min(TAR_BLOCK - within, bytes.length - at);
        const isZero = Buffer.compare(bytes.subarray(at, at + length), ZEROS.subarray(0, length)) === 0;
        zero = isZero && (within === 0 || zero);
        if (zero && within + length === TAR_BLOCK) block(seen + at - within);
        at += length;
      }
      seen += bytes.length;
    },
    file(contentOffset, size) {
      const [first] = zeros;
      if (first !== undefined && first[0] < contentOffset) throw invalid(what, 'something follows its end');
      end = contentOffset + size + tarPadding(size);
      zeros = zeros
        .map(([from, to]): [number, number] => [Math.max(from, end), to])
        .filter(([from, to]) => from < to);
    },
    finish() {
      const [last, ...others] = zeros;
      if (seen - end < TAR_END_LENGTH || last === undefined) throw invalid(what, 'it is cut short');
      if (others.length > 0 || last[0] !== end || last[1] !== seen)
        throw invalid(what, 'something follows its end');
    },
  };
}

function invalid(what: string, why: string): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} is no sound tar archive: ${why}`, {
    hint: 'get the file again; when it stays so, it is damaged where it comes from',
  });
}
