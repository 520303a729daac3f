import type { OptionDefinition } from './option-definition.ts';
import { sha256, url } from './option-kinds.ts';

/** What user data for new instances is made from, besides the agent's own options. */
export const CLOUD_INIT_OPTIONS = {
  executableUrl: {
    kind: url(['https', 'http']),
    description:
      'Where a new instance gets the executable from. Without it, and without --deb-url, the package is in the image.',
    inFile: false,
  },
  executableSha256: {
    kind: sha256(),
    description: 'SHA-256 that the executable must have; else nothing of it is run.',
    inFile: false,
  },
  debUrl: {
    kind: url(['https', 'http']),
    description: 'Where a new instance gets the Debian package from.',
    inFile: false,
  },
  debSha256: {
    kind: sha256(),
    description: 'SHA-256 that the Debian package must have; else nothing of it is installed.',
    inFile: false,
  },
} as const satisfies Record<string, OptionDefinition>;
