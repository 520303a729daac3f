/**
 * Frozen views: a folder that holds a database's files as they stood while the node was paused, and that stays as it is
 * while the node goes on. Immutable files are hard links, all others reflinks or copies.
 *
 * Hard links share their content with the node's own files: whoever reads a view opens its files for reading only.
 */
import type { DatabaseFile, DatabaseLayout } from './layout.ts';

export type ViewMethod = 'link' | 'reflink' | 'copy';

export interface PrepareViewOptions {
  layout: DatabaseLayout;
  /**
   * The folder in which the view's own folder is made. Default: `.presync` beside the `full` folder, so on the same file
   * system. On another file system everything is copied.
   */
  viewDir?: string | undefined;
  signal: AbortSignal;
  onProgress?: ((progress: ViewProgress) => void) | undefined;
}

export interface ViewProgress {
  files: number;
  filesTotal: number;
  /** Bytes copied while the node runs. */
  bytes: number;
  bytesTotal: number;
}

/** A view that has been made ready while the node runs. */
export interface PreparedView {
  /** The view's own folder. */
  readonly dir: string;
  readonly estimate: ViewEstimate;
  /**
   * Brings the view to the state of this instant. To be called once, while the node is paused or not running.
   *
   * @throws NODE_UNKNOWN_FILE, NODE_CHANGED, NO_SPACE, IO_FAILED, INTERNAL (second call), ABORTED or the signal's reason
   */
  freeze(options: { signal: AbortSignal }): Promise<FrozenView>;
  /** Removes the view's folder. May be called at any time and twice. */
  discard(): Promise<void>;
}

/** What the pause will have to do, at the least and at the most, judged right after the preparation. */
export interface ViewEstimate {
  files: number;
  /** How the files that are not hard-linked are taken during the pause. */
  method: 'reflink' | 'copy';
  /** Bytes on disk that are read again if every copied file changes before or during the pause. 0 with reflinks. */
  bytesToRereadAtMost: number;
  /** The part of them that would have to be read again now. Files that change all the time are in it. */
  bytesToRereadNow: number;
}

export interface ViewFile extends DatabaseFile {
  /** Absolute path of the frozen file. The other fields tell of the live file at the time of the pause. */
  viewPath: string;
  method: ViewMethod;
}

export interface FrozenView {
  readonly dir: string;
  /** Sorted bytewise by archive path. */
  readonly files: readonly ViewFile[];
  readonly methods: Readonly<Record<ViewMethod, number>>;
  /** Bytes read from the live files during the pause. */
  readonly bytesReadInPause: number;
  /** Bytes written into the view during the pause. */
  readonly bytesCopiedInPause: number;
  /** Removes the view's folder. May be called twice. */
  release(): Promise<void>;
}

export { openCopy } from './lib/copy-view.ts';
export { prepareView } from './lib/prepare-view.ts';
export { type FoundView, listViews, removeStaleViews } from './lib/view-folder.ts';
