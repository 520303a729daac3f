/** The first argument of a presync that is to look after a proof node; no command that people give. */
export const SUPERVISE_PROOF = 'supervise-proof';

/** What the process that looks after the proof node is told, as its second argument, in JSON. */
export interface SupervisorTask {
  command: string[];
  /** Working folder and home of the node. */
  dir: string;
  rpcPort: number;
  /** Number of the anchor block. */
  anchor: number | null;
  /** True in a network namespace of its own. */
  ownNetwork: boolean;
}

/** What it says, a line of JSON each. */
export type SupervisorMessage =
  /** The node answered. */
  | {
      kind: 'answer';
      genesis: string;
      best: { number: number; hash: string };
      /** The hash of the block that has the anchor's number; null when there is none. */
      anchorHash: string | null;
      implementation: string;
    }
  /** The node has ended. */
  | { kind: 'ended'; how: string; log: string }
  /** The node was not started, for a reason that is not the snapshot's. */
  | { kind: 'refused'; reason: string };
