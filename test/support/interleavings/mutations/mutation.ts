import type { Profile } from '../profiles.ts';

export interface Edit {
  file: string;
  from: string;
  to: string;
}

/** A rule of the algorithms, broken: the campaign must find a violation in one of its worlds. */
export interface Mutation extends Edit {
  name: string;
  /** The worlds that are aimed at the rule are tried first. */
  aimed?: Profile;
  /** What else has to be changed. */
  also?: readonly Edit[];
}

export const SRC = 'packages/transfer/src';
