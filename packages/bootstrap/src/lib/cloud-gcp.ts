import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { Cloud, Instance, Notice } from '../cloud.ts';
import { badAnswer, createMetadataClient, type MetadataClient, timeOf } from './cloud-metadata.ts';
import { type CloudSinks, type NoticeSource, watchNotices } from './cloud-watch.ts';

export interface GcpCloudOptions extends CloudSinks {
  /** Of the metadata server. */
  base: string;
}

/** How long the server holds a question until its answer changes, as Google's own guest agent asks. */
const HANG_S = 60;

/** Longer than that: it does answer then. */
const HANG_LIMIT_MS = (HANG_S + 10) * 1000;

/** Between two such questions, so that a server which does not hold them is not asked without end. */
const EVERY_MS = 1000;

/** A key that this machine does not have may come with its host's next release. */
const ABSENT_EVERY_MS = 60_000;

/** A spot VM has 30 seconds (https://cloud.google.com/compute/docs/instances/spot), unless its template asks for more, which is told nowhere. */
const PREEMPTION_MS = 30_000;

/** Announced so long before (https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice). */
const MAINTENANCE_MS = 60_000;

const HINT =
  'check that this is a Compute Engine VM, and that no firewall keeps 169.254.169.254 from presync; the address of its metadata server can be given with --cloud-metadata';

/**
 * A Compute Engine VM. Managed instance groups know no hooks: they look at health alone, at `/readyz`, and a VM that goes gets a signal from
 * its own system at about the same time as these notices.
 */
export function createGcpCloud({ log, metrics, base }: GcpCloudOptions): Cloud {
  const client = createMetadataClient(base);
  return {
    name: 'gcp',
    instance: (signal) => gcpInstance(client, signal),
    hold: async () => 'nothing',
    completeLaunch: async () => {},
    notices: (signal) => watchNotices(gcpSources(client), { log, metrics }, signal),
    completeTermination: async () => {},
    close: () => client.close(),
  };
}

/** True when Google answers there. */
export async function isGcp(base: string, signal: AbortSignal): Promise<boolean> {
  const client = createMetadataClient(base);
  try {
    return (await read(client, 'instance/id', signal)) !== undefined;
  } finally {
    client.close();
  }
}

interface Value {
  text: string;
  etag: string | undefined;
}

/** Undefined for a key that is not there. */
async function ask(
  client: MetadataClient,
  key: string,
  signal: AbortSignal,
  lastEtag?: string | undefined,
): Promise<Value | undefined> {
  const query =
    lastEtag === undefined
      ? ''
      : `?wait_for_change=true&timeout_sec=${HANG_S}&last_etag=${encodeURIComponent(lastEtag)}`;
  const call = {
    path: `/computeMetadata/v1/${key}${query}`,
    headers: { 'Metadata-Flavor': 'Google' },
    timeoutMs: lastEtag === undefined ? undefined : HANG_LIMIT_MS,
    hint: HINT,
    signal,
  };
  const { status, headers, text } = await client.ask(call);
  // Who else answers at that address does not know it.
  if (headers['metadata-flavor'] !== 'Google')
    throw badAnswer(call, `status ${status}, and not as Google's metadata server`);
  if (status === 404) return undefined;
  if (status === 403)
    throw new PresyncError('CLOUD_FORBIDDEN', "Google's metadata server refuses to answer", {
      retryable: true,
      hint: HINT,
    });
  // 503 while the VM is moved to another host.
  if (status !== 200) throw badAnswer(call, `status ${status}`);
  return { text: text.trim(), etag: headers.etag };
}

async function read(client: MetadataClient, key: string, signal: AbortSignal): Promise<string | undefined> {
  return (await ask(client, key, signal))?.text;
}

async function gcpInstance(client: MetadataClient, signal: AbortSignal): Promise<Instance> {
  const [id, name, place, creator] = await Promise.all(
    ['id', 'name', 'zone', 'attributes/created-by'].map((key) => read(client, `instance/${key}`, signal)),
  );
  if (id === undefined || id === '') throw badAnswer({ path: '/computeMetadata/v1/instance/id' }, 'no id');
  // `projects/123/zones/europe-west1-b`
  const zone = place?.split('/').at(-1);
  return {
    cloud: 'gcp',
    id,
    name,
    zone,
    region: zone?.replace(/-[a-z]$/, ''),
    // `projects/123/regions/europe-west1/instanceGroupManagers/sentries`; other creators have other paths.
    group: /\/instanceGroupManagers\/([^/]+)$/.exec(creator ?? '')?.[1],
  };
}

/** Where a VM is told what will become of it. */
function gcpSources(client: MetadataClient): NoticeSource[] {
  return [
    watched(client, 'preemption', 'preempted', async (value) =>
      value === 'TRUE' ? [preemption(new Date(Date.now() + PREEMPTION_MS))] : [],
    ),
    watched(client, 'maintenance', 'maintenance-event', async (value, signal) => {
      if (value === 'NONE' || value === '') return [];
      const deadline = new Date(Date.now() + MAINTENANCE_MS);
      if (value !== 'TERMINATE_ON_HOST_MAINTENANCE') return [maintenance(value, 'pauses', deadline)];
      const comesBack = (await read(client, 'instance/scheduling/automatic-restart', signal)) === 'TRUE';
      return [maintenance(value, comesBack ? 'restarts' : 'ends', deadline)];
    }),
    watched(client, 'stop', 'shutdown-details/stop-state', async (value, signal) =>
      value === 'PENDING_STOP' ? [stop(await stopDeadline(client, signal))] : [],
    ),
  ];
}

/**
 * A key whose change the server tells at once. The first question is answered at once, too; each later one names the last answer's ETag, so
 * that a change between two of them is not missed. What is read from a value stands until the value changes.
 */
function watched(
  client: MetadataClient,
  name: string,
  key: string,
  notices: (value: string, signal: AbortSignal) => Promise<Notice[]>,
): NoticeSource {
  let last: { text: string; etag: string | undefined; found: Notice[] } | undefined;
  let askAgainAt = 0;
  return {
    name,
    everyMs: EVERY_MS,
    async look(signal) {
      if (performance.now() < askAgainAt) return [];
      const value = await ask(client, `instance/${key}`, signal, last?.etag);
      if (value === undefined) {
        last = undefined;
        askAgainAt = performance.now() + ABSENT_EVERY_MS;
        return [];
      }
      const found = value.text === last?.text ? last.found : await notices(value.text, signal);
      last = { ...value, found };
      return found;
    },
  };
}

function preemption(deadline: Date): Notice {
  return {
    id: 'preempted',
    kind: 'preemption',
    effect: 'ends',
    state: 'ahead',
    deadline,
    detail: 'Compute Engine takes this VM back',
  };
}

function maintenance(value: string, effect: Notice['effect'], deadline: Date): Notice {
  return {
    id: `maintenance:${value}`,
    kind: 'maintenance',
    effect,
    state: 'ahead',
    deadline,
    detail: `Compute Engine works on the host of this VM: ${value}`,
  };
}

/** Where graceful shutdown is on: a group or a person stops or deletes the VM, and its system is not told yet. */
function stop(deadline: Date | undefined): Notice {
  return {
    id: 'stop',
    kind: 'scale-in',
    effect: 'ends',
    state: 'ahead',
    deadline,
    detail: 'this VM is stopped or deleted, after its time for a graceful shutdown',
  };
}

/** https://cloud.google.com/compute/docs/instances/graceful-shutdown-overview; undefined where the server does not tell. */
async function stopDeadline(client: MetadataClient, signal: AbortSignal): Promise<Date | undefined> {
  try {
    const [asked, seconds] = await Promise.all(
      ['request-timestamp', 'max-duration'].map((key) =>
        read(client, `instance/shutdown-details/${key}`, signal),
      ),
    );
    const begun = timeOf(asked);
    if (begun === undefined || seconds === undefined || !/^\d{1,9}$/.test(seconds)) return undefined;
    return new Date(begun.getTime() + Number(seconds) * 1000);
  } catch (error) {
    if (isPresyncError(error, 'ABORTED')) throw error;
    return undefined;
  }
}
