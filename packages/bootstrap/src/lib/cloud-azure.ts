import { PresyncError } from '@presync/runtime/errors';
import type { Cloud, Instance, Notice } from '../cloud.ts';
import {
  badAnswer,
  createMetadataClient,
  fieldOf,
  jsonOf,
  type MetadataClient,
  textFieldOf,
  timeOf,
} from './cloud-metadata.ts';
import { type CloudSinks, type NoticeSource, watchNotices } from './cloud-watch.ts';

export interface AzureCloudOptions extends CloudSinks {
  /** Of the metadata service. */
  base: string;
}

/** https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service */
const INSTANCE = '/metadata/instance?api-version=2021-02-01&format=json';

/** https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events */
const EVENTS = '/metadata/scheduledevents?api-version=2020-07-01';

/** As Azure advises: a spot VM has 30 seconds. */
const EVERY_MS = 1000;

/** The first question switches the events on for the VM, and may take two minutes. */
const FIRST_ANSWER_MS = 150_000;

/** Later ones are late when the host is at work on the VM. */
const ANSWER_MS = 10_000;

const HINT =
  'check that this is an Azure VM, and that neither a firewall nor a proxy stands between presync and 169.254.169.254';

/** What the events are: their kind, and what they do to the VM. */
const EVENT_TYPES: Readonly<Record<string, Pick<Notice, 'kind' | 'effect'>>> = {
  Preempt: { kind: 'preemption', effect: 'ends' },
  Terminate: { kind: 'scale-in', effect: 'ends' },
  Reboot: { kind: 'maintenance', effect: 'restarts' },
  Redeploy: { kind: 'maintenance', effect: 'restarts' },
  Freeze: { kind: 'maintenance', effect: 'pauses' },
};

/**
 * An Azure VM. Scale sets know no launch hook: they look at health alone, at `/readyz`. An event is let go on by a start request, which
 * Azure takes as the word of every VM that the event names; so it is sent only for events of this VM alone.
 */
export function createAzureCloud({ log, metrics, base }: AzureCloudOptions): Cloud {
  const client = createMetadataClient(base);
  /** Ids of events that name no other VM. */
  const own = new Set<string>();

  async function approve(id: string, signal: AbortSignal): Promise<void> {
    const { status } = await client.ask({
      method: 'POST',
      path: EVENTS,
      headers: { Metadata: 'true', 'content-type': 'application/json' },
      body: JSON.stringify({ StartRequests: [{ EventId: id }] }),
      timeoutMs: ANSWER_MS,
      hint: HINT,
      signal,
    });
    // An event that is over has an id that is not valid any more.
    if (status === 200 || status === 400 || status === 404) return;
    throw badAnswer({ path: EVENTS }, `status ${status}`);
  }

  return {
    name: 'azure',
    instance: (signal) => azureInstance(client, signal),
    hold: async () => 'nothing',
    completeLaunch: async () => {},
    notices: (signal) => watchNotices([azureEvents(client, own)], { log, metrics }, signal),

    async completeTermination({ id, effect }, signal) {
      if (!own.has(id) || effect === 'pauses' || effect === 'none') return;
      await approve(id, signal);
      log.info('cloud.event_approved', 'Azure is told that the event may go on', { id });
    },

    close: () => client.close(),
  };
}

/** True when Azure answers there. */
export async function isAzure(base: string, signal: AbortSignal): Promise<boolean> {
  const client = createMetadataClient(base);
  try {
    await azureInstance(client, signal);
    return true;
  } finally {
    client.close();
  }
}

async function ask(
  client: MetadataClient,
  path: string,
  signal: AbortSignal,
  timeoutMs?: number,
): Promise<object> {
  const call = { path, headers: { Metadata: 'true' }, timeoutMs, hint: HINT, signal };
  const { status, text } = await client.ask(call);
  if (status === 403)
    throw new PresyncError('CLOUD_FORBIDDEN', "Azure's metadata service refuses to answer", {
      retryable: true,
      hint: HINT,
    });
  if (status !== 200) throw badAnswer(call, `status ${status}`);
  return jsonOf(call, text);
}

async function azureInstance(client: MetadataClient, signal: AbortSignal): Promise<Instance> {
  const compute = fieldOf(await ask(client, INSTANCE, signal), 'compute');
  const id = textFieldOf(compute, 'vmId');
  if (id === undefined) throw badAnswer({ path: INSTANCE }, 'a document without vmId');
  return {
    cloud: 'azure',
    id,
    name: textFieldOf(compute, 'name'),
    region: textFieldOf(compute, 'location'),
    zone: textFieldOf(compute, 'zone'),
    group: textFieldOf(compute, 'vmScaleSetName'),
  };
}

/** Events of the whole availability set or placement group come to each VM in it; those of others are left out. */
function azureEvents(client: MetadataClient, own: Set<string>): NoticeSource {
  let name: string | undefined;
  let answered = false;
  return {
    name: 'events',
    everyMs: EVERY_MS,
    async look(signal) {
      name ??= (await azureInstance(client, signal)).name?.toLowerCase();
      const document = await ask(client, EVENTS, signal, answered ? ANSWER_MS : FIRST_ANSWER_MS);
      const events = fieldOf(document, 'Events');
      if (!Array.isArray(events)) throw badAnswer({ path: EVENTS }, 'a document without Events');
      answered = true;
      own.clear();
      return events.flatMap((event) => {
        const resources = resourcesOf(event);
        if (name === undefined || !resources.includes(name)) return [];
        const notice = noticeOf(event);
        if (resources.length === 1) own.add(notice.id);
        return [notice];
      });
    },
  };
}

function resourcesOf(event: unknown): string[] {
  const resources = fieldOf(event, 'Resources');
  return Array.isArray(resources) ? resources.map((resource) => String(resource).toLowerCase()) : [];
}

function noticeOf(event: unknown): Notice {
  const type = textFieldOf(event, 'EventType') ?? 'unknown';
  const started = fieldOf(event, 'EventStatus') === 'Started';
  const { kind, effect } = EVENT_TYPES[type] ?? { kind: 'maintenance', effect: 'restarts' };
  const seconds = fieldOf(event, 'DurationInSeconds');
  return {
    id: textFieldOf(event, 'EventId') ?? type,
    kind,
    // 0: such an event is felt by nobody.
    effect: effect === 'pauses' && seconds === 0 ? 'none' : effect,
    state: started ? 'begun' : 'ahead',
    // Blank once it has started.
    deadline: timeOf(textFieldOf(event, 'NotBefore')),
    detail: `Azure has scheduled ${type}: ${textFieldOf(event, 'Description') ?? 'no description'}`,
  };
}
