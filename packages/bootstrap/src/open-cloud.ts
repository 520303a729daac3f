import { messageOf, throwIfAborted } from '@presync/runtime/errors';
import type { Cloud, CloudName } from './cloud.ts';
import { createAwsCloud, isAws } from './lib/cloud-aws.ts';
import { createAzureCloud, isAzure } from './lib/cloud-azure.ts';
import { createGcpCloud, isGcp } from './lib/cloud-gcp.ts';
import { METADATA_BASE } from './lib/cloud-metadata.ts';
import type { CloudSinks } from './lib/cloud-watch.ts';

export interface OpenCloudOptions extends CloudSinks {
  /** Base URL of the metadata service, in place of the cloud's own. */
  metadata?: string | undefined;
  /** Names of the hooks of an Auto Scaling group. Default: the only one that it has for each transition. */
  launchHook?: string | undefined;
  terminationHook?: string | undefined;
  signal: AbortSignal;
}

/** All three are asked side by side; a metadata service that is there answers in milliseconds. */
const DETECT_MS = 1500;

const CLOUDS: Readonly<
  Record<CloudName, { is: typeof isAws; create: (options: OpenCloudOptions & { base: string }) => Cloud }>
> = {
  aws: { is: isAws, create: createAwsCloud },
  azure: { is: isAzure, create: createAzureCloud },
  gcp: { is: isGcp, create: createGcpCloud },
};

/**
 * The cloud that this instance runs in. A cloud that is named is not looked for, so that a metadata service which comes late, or fails for a
 * while, changes nothing; with `auto`, undefined means that none answered within two seconds.
 *
 * @throws PresyncError ABORTED
 */
export async function openCloud(
  choice: CloudName | 'auto' | 'none',
  options: OpenCloudOptions,
): Promise<Cloud | undefined> {
  const name = choice === 'auto' ? await detectCloud(options) : choice === 'none' ? undefined : choice;
  return name === undefined ? undefined : CLOUDS[name].create({ ...options, base: baseOf(name, options) });
}

async function detectCloud(options: OpenCloudOptions): Promise<CloudName | undefined> {
  const { log, signal } = options;
  const within = AbortSignal.any([signal, AbortSignal.timeout(DETECT_MS)]);
  const reasons: Record<string, string> = {};
  const answers = await Promise.all(
    cloudNames().map(async (name) => {
      try {
        return (await CLOUDS[name].is(baseOf(name, options), within)) ? name : undefined;
      } catch (error) {
        reasons[name] = within.aborted ? 'no answer in time' : messageOf(error);
        return undefined;
      }
    }),
  );
  throwIfAborted(signal);
  const found = answers.find((name) => name !== undefined);
  if (found === undefined)
    log.info(
      'cloud.none',
      'no metadata service answers: this instance is in no cloud that presync knows',
      reasons,
    );
  else log.info('cloud.found', `this instance is in ${found}`, { cloud: found });
  return found;
}

function cloudNames(): CloudName[] {
  return ['aws', 'azure', 'gcp'];
}

/** The variables are those of the clouds' own SDKs. */
function baseOf(name: CloudName, { metadata }: OpenCloudOptions): string {
  if (metadata !== undefined) return metadata;
  const { AWS_EC2_METADATA_SERVICE_ENDPOINT: aws = '', GCE_METADATA_HOST: gcp = '' } = process.env;
  if (name === 'aws' && aws !== '') return aws;
  if (name === 'gcp' && gcp !== '') return `http://${gcp}`;
  return METADATA_BASE;
}
