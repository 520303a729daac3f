import { accessSync, constants } from 'node:fs';
import type { OptionDefinition } from './option-definition.ts';
import { choice, duration, list, text } from './option-kinds.ts';

/** What the agent on a new instance does besides a restore. */
export const AGENT_OPTIONS = {
  until: {
    kind: choice(['sealed', 'ready', 'stopped']),
    description:
      'How far the agent goes: until the database is whole and the file of --sealed-file is there, until the node is ready, or until somebody stops it, so that /readyz tells the truth all the time.',
    default: 'stopped',
  },
  sealedFile: {
    kind: text('FILE', 'the path of a file, or none'),
    description:
      "File that is there while the database is whole: the condition of the node's unit. It must not outlive a boot; none for no file.",
    default: defaultSealedFile,
    defaultText: '/run/presync/sealed where that folder can be written, else none',
  },
  drainTime: {
    kind: duration('0s', '1h'),
    description:
      'How long requests get to end, while /readyz is red already, before the node is stopped. Cut short when the cloud takes the machine earlier.',
    default: '10s',
  },
  preflightIgnore: {
    kind: list(
      choice(['arguments', 'chain', 'pruning', 'version', 'paths', 'owner', 'room', 'files', 'clock']),
    ),
    description:
      'A check of the preflight whose refusal is told and not heeded. Repeatable. Genesis, backend, and what is there already can never be overruled.',
    default: [],
  },
} as const satisfies Record<string, OptionDefinition>;

const RUN_FOLDER = '/run/presync';

function defaultSealedFile(): string {
  try {
    accessSync(RUN_FOLDER, constants.W_OK);
    return `${RUN_FOLDER}/sealed`;
  } catch {
    return 'none';
  }
}
