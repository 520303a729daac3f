import { createHash } from 'node:crypto';
import { PresyncError } from '@presync/runtime/errors';
import { flagOf, type OptionName } from '@presync/runtime/options';
import type { CommandHandler } from '../command.ts';
import { type Pinned, renderUserData } from '../lib/user-data.ts';
import { agentConfig, assertNoCredentials } from '../lib/user-data-config.ts';

/** User data's largest size, bytes, before any base64, and where that is said. */
const LIMITS = {
  /** "Run commands on your Linux instance at launch": 16 KB in raw form, before it is base64-encoded. */
  aws: 16_384,
  /** The virtual machine's `osProfile.customData`: at most 65535 bytes. */
  azure: 65_535,
  /** "Limits" of custom metadata: 256 KB for a value. */
  gcp: 262_144,
} as const;

const NAMES = { aws: 'AWS', azure: 'Azure', gcp: 'Google Cloud' } as const;

export const cloudInitRender: CommandHandler<'cloud-init render'> = async ({ config, loaded }) => {
  const userData = renderUserData({
    config: await agentConfig(loaded),
    unit: config.unit,
    pinned: pinnedOf(config),
  });
  assertSize(userData, config.cloud);
  const sha256 = createHash('sha256').update(userData).digest('hex');
  // Texts only: Terraform's external data source takes nothing else.
  return { json: { cloud: config.cloud, sha256, userData }, text: [userData.trimEnd()] };
};

type PinnedConfig = Record<'executableUrl' | 'executableSha256' | 'debUrl' | 'debSha256', string | undefined>;

function pinnedOf(config: PinnedConfig): Pinned | undefined {
  const executable = pinned('executable', config, 'executableUrl', 'executableSha256');
  return executable ?? pinned('package', config, 'debUrl', 'debSha256');
}

function pinned(
  kind: Pinned['kind'],
  config: PinnedConfig,
  urlName: keyof PinnedConfig & OptionName,
  digestName: keyof PinnedConfig & OptionName,
): Pinned | undefined {
  const [url, sha256] = [config[urlName], config[digestName]];
  if (url === undefined && sha256 === undefined) return undefined;
  if (url === undefined || sha256 === undefined) {
    const [given, lacking] = url === undefined ? [digestName, urlName] : [urlName, digestName];
    throw new PresyncError('CONFIG_INVALID', `${flagOf(given)} needs ${flagOf(lacking)}`, {
      hint: 'give both, with the digest that sha256sum prints: nothing is run on an instance that was not checked before',
    });
  }
  assertNoCredentials(flagOf(urlName), url);
  return { kind, url: new URL(url).href, sha256 };
}

function assertSize(userData: string, cloud: 'none' | 'auto' | keyof typeof LIMITS): void {
  if (cloud === 'none') return;
  // A machine that finds out where it is may be in the one that takes least.
  const strictest = cloud === 'auto' ? 'aws' : cloud;
  const bytes = Buffer.byteLength(userData);
  if (bytes <= LIMITS[strictest]) return;
  throw new PresyncError(
    'USER_DATA_TOO_LARGE',
    `the user data has ${bytes} bytes, and ${NAMES[strictest]} takes at most ${LIMITS[strictest]}`,
    { hint: 'put the Debian package into the image, or give fewer options here and the others in the image' },
  );
}
