import type { OptionDefinition } from './option-definition.ts';
import { duration, flag, integer } from './option-kinds.ts';

/** Which snapshots stay, and how long what they shared does. */
export const RETENTION_OPTIONS = {
  keepLast: {
    kind: integer('N', 0, 100_000, 'snapshots'),
    description: 'Retention keeps so many of the newest snapshots of a channel.',
  },
  keepHourly: {
    kind: integer('N', 0, 100_000, 'hours'),
    description: 'Retention keeps the newest snapshot of each of so many hours (UTC) that have one.',
  },
  keepDaily: {
    kind: integer('N', 0, 100_000, 'days'),
    description: 'The same for days.',
  },
  keepWeekly: {
    kind: integer('N', 0, 100_000, 'weeks'),
    description: 'The same for weeks, from Monday on.',
  },
  keepMonthly: {
    kind: integer('N', 0, 100_000, 'months'),
    description: 'The same for months.',
  },
  grace: {
    kind: duration('0s', '365d'),
    description:
      'How long what no snapshot names any more stays in the store, for readers that cannot hold a lease there.',
    default: '24h',
  },
  wait: {
    kind: flag(),
    description:
      'Stay until what was found is removed: through the grace, and until the leases of others have ended.',
    default: false,
    inFile: false,
  },
} as const satisfies Record<string, OptionDefinition>;
