import type { OptionDefinition } from './option-definition.ts';
import { duration, flag, list, pattern, text, timezone, url } from './option-kinds.ts';

/** When the daemon works, and how it is talked to. */
export const DAEMON_OPTIONS = {
  schedule: {
    kind: list(
      pattern('CRON', /^\S+(?: \S+){4,5}$/, 'a cron expression of five or six fields, such as "0 3 * * *"'),
      ';',
    ),
    description: 'When snapshots are taken. Repeatable; in the environment separated by semicolons.',
  },
  timezone: {
    kind: timezone(),
    description: 'The time zone of schedules and quiet hours.',
    default: 'UTC',
  },
  jitter: {
    kind: duration('0s', '24h'),
    description:
      'Scheduled runs begin up to this much later, by chance, so that many nodes do not begin at once.',
    default: '0s',
  },
  quietHours: {
    kind: list(
      pattern(
        'HH:MM-HH:MM',
        /^(?:[01]\d|2[0-3]):[0-5]\d-(?:[01]\d|2[0-3]):[0-5]\d$/,
        'a time of day from which and one until which, such as 22:00-06:00',
      ),
      ';',
    ),
    description:
      'No snapshot is begun in these hours of the day. Repeatable; in the environment separated by semicolons.',
    default: [],
  },
  stallTimeout: {
    kind: duration('1m', '7d'),
    description:
      'A run that moves no byte and ends no call for this long counts as stalled: health is no, and the watchdog of systemd is fed no more.',
    default: '30m',
  },
  adminTokenFile: {
    kind: text('FILE', 'the path of a file'),
    description: 'File with the bearer token for POST /run. Without it there is no such route.',
    secret: true,
  },
  traceOtlp: {
    kind: url(['http', 'https']),
    description:
      'Where traces of runs are sent by OTLP over HTTP, such as http://127.0.0.1:4318; /v1/traces is added.',
  },
  viaDaemon: {
    kind: flag(),
    description:
      'Ask the daemon that runs with the same --state-dir to take the snapshot now, and follow it to its end.',
    default: false,
    inFile: false,
  },
} as const satisfies Record<string, OptionDefinition>;
