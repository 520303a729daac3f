/** What the agent needs of the group of machines that its instance belongs to. */
export interface Group {
  /** How often the group wants to hear that the launch goes on, milliseconds; undefined when it does not. */
  readonly heartbeatMs: number | undefined;
  /** Tells that the launch still goes on. */
  heartbeat(signal: AbortSignal): Promise<void>;
  /** The launch is over: the instance may serve, or is to be thrown away. What is over already is no error. */
  completeLaunch(result: 'continue' | 'abandon', signal: AbortSignal): Promise<void>;
  /** What the cloud tells of the end of this instance. Ends with the signal, without an error. */
  notices(signal: AbortSignal): AsyncIterable<Notice>;
  /** The node has stopped, and the group may go on with the end of the instance. */
  completeTermination(notice: Notice, signal: AbortSignal): Promise<void>;
}

export interface Notice {
  /** In the words of the field, as `spot-interruption`, `scale-in`, `preemption`, `rebalance`, `maintenance`. */
  kind: string;
  /** True when the instance will be gone, false for what may come to nothing. */
  final: boolean;
  /** When the instance goes away at the earliest. */
  deadline?: Date | undefined;
  /** The cloud's own name of it, where it has one. */
  id?: string | undefined;
  detail?: string | undefined;
}
