import { readTrustedKey } from '@presync/format/key-files';
import { formatPublicKey } from '@presync/format/signature';
import { commandOf } from '@presync/runtime/commands';
import type { LoadedConfig } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import { flagOf, type OptionName, optionOf } from '@presync/runtime/options';
import { redactValue } from '@presync/runtime/redact';

/** How the user data itself is printed. */
const PRINTING: readonly OptionName[] = ['json', 'quiet'];

/** Arguments of a node that make up its identity, or open its keystore. */
const NODE_SECRETS = /^--(?:node-key|password|suri)(?:=|$)/;

const READABLE =
  'user data can be read by every process of the instance, and by whoever may describe the instance';

/**
 * The agent's configuration on a new instance, by option: all that was given and that "presync bootstrap" takes, as it stands in a file.
 * Trusted keys stand in it themselves, also those that were given as files here.
 *
 * @throws PresyncError USER_DATA_SECRET for what must not be in user data; CONFIG_INVALID; KEY_INVALID
 */
export async function agentConfig({
  explained,
  values,
}: LoadedConfig<'cloud-init render'>): Promise<Record<string, unknown>> {
  const given: Partial<Record<OptionName, unknown>> = values;
  const entries: [OptionName, unknown][] = [];
  for (const { name, source } of explained) {
    const { kind, inFile } = optionOf(name);
    const taken = commandOf('bootstrap').options.includes(name) && !PRINTING.includes(name);
    if (source.kind === 'default' || inFile === false || !taken) continue;
    const value = name === 'trust' ? await trustedKeys(values.trust) : kind.show(given[name]);
    assertPublic(name, value);
    entries.push([name, value]);
  }
  if (values.trust.length === 0 && !values.insecureNoVerify) {
    throw new PresyncError(
      'CONFIG_INVALID',
      'no trusted key is given, so the agent could accept no snapshot',
      {
        hint: "give the source node's public key with --trust (there: presync keys public FILE)",
      },
    );
  }
  return Object.fromEntries(entries);
}

async function trustedKeys(keysOrFiles: readonly string[]): Promise<string[]> {
  const keys = await Promise.all(keysOrFiles.map(readTrustedKey));
  return keys.map(formatPublicKey);
}

/** Refuses what is secret, and paths that mean nothing elsewhere. A value that may be a secret is not told. */
function assertPublic(name: OptionName, value: unknown): void {
  const { placeholder } = optionOf(name).kind;
  const isPath = placeholder === 'FILE' || placeholder === 'DIR';
  if (isPath && !String(value).startsWith('/')) {
    throw new PresyncError(
      optionOf(name).secret === true ? 'USER_DATA_SECRET' : 'CONFIG_INVALID',
      `${flagOf(name)} is not the whole path of a file or folder on the instance`,
      {
        hint: `give a path that begins with /, and let the image or a secret manager put there what belongs there: ${READABLE}`,
      },
    );
  }
  assertNoCredentials(flagOf(name), value);
  if (name !== 'nodeCommand' || !Array.isArray(value)) return;
  const secret = value.map((word) => NODE_SECRETS.exec(String(word))?.[0]).find((word) => word !== undefined);
  if (secret !== undefined) {
    throw new PresyncError(
      'USER_DATA_SECRET',
      `the node command has ${secret.replace('=', '')}, which would be the same on every instance`,
      {
        hint: `leave it out, so that each node makes a key of its own, or name a file that is put on the instance by a secret manager: ${READABLE}`,
      },
    );
  }
}

/** Refuses URLs with credentials or signatures in them, and private keys. */
export function assertNoCredentials(what: string, value: unknown): void {
  if (JSON.stringify(redactValue(value)) === JSON.stringify(value)) return;
  throw new PresyncError('USER_DATA_SECRET', `${what} holds a credential or a private key`, {
    hint: `${READABLE}: give the instance's role access to the store, or put the credential into the file of --store-auth or into /etc/presync/presync.env by the image or a secret manager; signing keys stay on the source node`,
  });
}
