/** The clouds that an instance may run in. */
export type CloudName = 'aws' | 'azure' | 'gcp';

/** Who this instance is, as its metadata service tells. */
export interface Instance {
  cloud: CloudName;
  /** What the cloud's own tools take: `i-0123…` on AWS, the VM's UUID on Azure, a number on GCP. */
  id: string;
  /** The VM's name; AWS has none. */
  name: string | undefined;
  region: string | undefined;
  zone: string | undefined;
  /** Auto Scaling group, scale set or managed instance group; undefined where there is none, or it is not told. */
  group: string | undefined;
}

export const NOTICE_KINDS = ['preemption', 'rebalance', 'scale-in', 'maintenance'] as const;

/**
 * - `preemption`: a spot instance is taken back. Minutes or less remain.
 * - `rebalance`: a spot instance is likely to be taken back. Advice only; the group acts on it where it is told to.
 * - `scale-in`: the group, or a person, removes or stops the instance.
 * - `maintenance`: the host is worked on, often days ahead.
 */
export type NoticeKind = (typeof NOTICE_KINDS)[number];

/** Something that will happen to this instance. */
export interface Notice {
  /** The same for as long as it is about the same event. */
  id: string;
  kind: NoticeKind;
  /**
   * What becomes of the instance: it `ends` (its disks may too), `restarts` (what is not on a disk is lost), `pauses` for
   * seconds, or `none`. Before the first two the node has to be stopped.
   */
  effect: 'ends' | 'restarts' | 'pauses' | 'none';
  /** `ahead`, `begun`, or `over`: it has happened, or will not; also when the cloud has called it off. */
  state: 'ahead' | 'begun' | 'over';
  /** It does not happen before. Undefined: the cloud does not tell, so at any time. */
  deadline: Date | undefined;
  /** A sentence for people. */
  detail: string;
}

/** Where a group waits for an instance. */
export type Transition = 'launch' | 'termination';

/** How a hold has ended: by the signal; because nothing waits (any more); or because the group waits no longer than this. */
export type HoldEnd = 'stopped' | 'nothing' | 'limit';

/**
 * A cloud, as an instance sees it from within. What only one of the clouds has does nothing in the others. Failures of the
 * metadata service are never the end of anything: they are logged, and what failed is tried again.
 */
export interface Cloud {
  readonly name: CloudName;
  /**
   * May be called at any time; the answer is asked for anew.
   *
   * @throws PresyncError CLOUD_UNREACHABLE, CLOUD_FORBIDDEN or CLOUD_FAILED
   */
  instance(signal: AbortSignal): Promise<Instance>;
  /**
   * Keeps the group waiting at a lifecycle hook, by heartbeats, until the signal fires. Ends earlier where no hook waits, and when the
   * group waits no longer, whatever it is told. Never throws.
   */
  hold(transition: Transition, signal: AbortSignal): Promise<HoldEnd>;
  /**
   * The launch is over: the instance may serve, or is to be thrown away (`abandon`). May be called twice, and where no hook waits.
   * Goes on trying for minutes, since a hook that is never completed throws the instance away.
   *
   * @throws PresyncError CLOUD_UNREACHABLE, CLOUD_FORBIDDEN, CLOUD_FAILED, or CONFIG_INVALID when it is not clear which hook is meant
   */
  completeLaunch(result: 'continue' | 'abandon', signal: AbortSignal): Promise<void>;
  /**
   * What will happen to this instance: each notice when it is first seen, when it changes, and when it is `over`. Ends when the signal
   * fires. Notices that stood before the call come too.
   */
  notices(signal: AbortSignal): AsyncIterable<Notice>;
  /**
   * The node has stopped, and its requests have ended: the event of the notice may go on, before its deadline. May be called twice. Where
   * other instances would be hit as well, the deadline is left to do it.
   *
   * @throws as `completeLaunch`
   */
  completeTermination(notice: Notice, signal: AbortSignal): Promise<void>;
  /** Lets go of connections. May be called twice. */
  close(): void;
}
