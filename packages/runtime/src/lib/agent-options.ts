import { accessSync, constants } from 'node:fs';
import type { OptionDefinition } from './option-definition.ts';
import { choice, duration, list, pattern, text, url } from './option-kinds.ts';

/** Of the API of Auto Scaling. */
const HOOK = /^[A-Za-z0-9\-_/]{1,255}$/;
const HOOK_TEXT = 'the name of a lifecycle hook: letters, digits, - _ and /';

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
  cloud: {
    kind: choice(['none', 'auto', 'aws', 'azure', 'gcp']),
    description:
      'The cloud whose metadata service is asked who this instance is and what will happen to it; auto asks all three at the start, for two seconds.',
    default: 'none',
  },
  cloudMetadata: {
    kind: url(['http']),
    description:
      'Base URL of the metadata service, where it is not at its usual address. It is never asked through a proxy.',
    defaultText:
      'AWS_EC2_METADATA_SERVICE_ENDPOINT or GCE_METADATA_HOST, where that cloud is meant, else http://169.254.169.254',
  },
  launchHook: {
    kind: pattern('NAME', HOOK, HOOK_TEXT),
    description:
      'Lifecycle hook of the Auto Scaling group that is kept waiting during the restore, and completed when the node is ready. Default: the only one that the group has for launches.',
  },
  terminationHook: {
    kind: pattern('NAME', HOOK, HOOK_TEXT),
    description:
      'The same for terminations: completed when the node has stopped. Default: the only one that the group has for them.',
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
