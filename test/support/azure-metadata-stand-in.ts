/**
 * Azure's metadata service, as its documentation describes it: the `Metadata` header, API versions, scheduled events with their
 * incarnation, and start requests. Azure publishes no server of it that could be installed.
 *
 * https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
 * https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
 */
import { createServer, type IncomingMessage } from 'node:http';

export interface AzureEvent {
  EventId: string;
  EventType: 'Freeze' | 'Reboot' | 'Redeploy' | 'Preempt' | 'Terminate';
  ResourceType: 'VirtualMachine';
  Resources: string[];
  EventStatus: 'Scheduled' | 'Started';
  /** As `Mon, 19 Sep 2016 18:29:47 GMT`; blank once it has started. */
  NotBefore: string;
  Description: string;
  EventSource: 'Platform' | 'User';
  DurationInSeconds: number;
}

export interface AzureMetadata {
  base: string;
  /** What is told of the VM. */
  compute: Record<string, string>;
  /** An event of that type for those VMs, in so many seconds. */
  schedule(
    event: Pick<AzureEvent, 'EventId' | 'EventType' | 'Resources'> & Partial<AzureEvent>,
    inSeconds: number,
  ): void;
  begin(id: string): void;
  end(id: string): void;
  /** Events that were let go on by a start request. */
  approved: string[];
  /** Status of all answers until it is undefined again. */
  failing: number | undefined;
  /** Requests so far. */
  readonly asked: number;
  stop(): Promise<void>;
}

const INSTANCE_VERSIONS = new Set(['2017-08-01', '2019-06-01', '2020-06-01', '2021-01-01', '2021-02-01']);
const EVENT_VERSIONS = new Set([
  '2017-08-01',
  '2017-11-01',
  '2019-01-01',
  '2019-04-01',
  '2019-08-01',
  '2020-07-01',
]);

export async function startAzureMetadata(): Promise<AzureMetadata> {
  let incarnation = 1;
  let asked = 0;
  const events: AzureEvent[] = [];

  function approve(body: string): [number, unknown] {
    const requests: unknown = (JSON.parse(body) as { StartRequests?: unknown }).StartRequests;
    if (!Array.isArray(requests)) return [400, { error: 'Bad request' }];
    for (const { EventId } of requests as { EventId?: unknown }[]) {
      const event = events.find((candidate) => candidate.EventId === EventId);
      if (event === undefined) return [400, { error: 'Bad request. Event not found' }];
      standIn.approved.push(event.EventId);
      standIn.begin(event.EventId);
    }
    return [200, undefined];
  }

  function answer(request: IncomingMessage, body: string): [number, unknown] {
    const url = new URL(request.url ?? '', 'http://169.254.169.254');
    const version = url.searchParams.get('api-version') ?? '';
    if (request.headers.metadata !== 'true')
      return [400, { error: 'Bad request. Required metadata header not specified' }];
    if (request.headers['x-forwarded-for'] !== undefined)
      return [400, { error: 'Bad request. The request was forwarded' }];
    if (standIn.failing !== undefined) return [standIn.failing, { error: 'as told' }];
    if (url.pathname === '/metadata/instance') {
      if (!INSTANCE_VERSIONS.has(version)) return [400, { error: 'Bad request. api-version is invalid' }];
      if (request.method !== 'GET') return [405, { error: 'Method Not Allowed' }];
      return [200, { compute: standIn.compute, network: { interface: [] } }];
    }
    if (url.pathname === '/metadata/scheduledevents') {
      if (!EVENT_VERSIONS.has(version)) return [400, { error: 'Bad request. api-version is invalid' }];
      if (request.method === 'POST') return approve(body);
      return [200, { DocumentIncarnation: incarnation, Events: events }];
    }
    return [404, { error: 'Not found' }];
  }

  const server = createServer((request, response) => {
    asked++;
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      const [status, document] = answer(request, body);
      response.writeHead(status, {
        'content-type': 'application/json; charset=utf-8',
        server: 'IMDS/150.870.65.1854',
      });
      response.end(document === undefined ? '' : JSON.stringify(document));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const standIn: AzureMetadata = {
    base: `http://127.0.0.1:${address.port}`,
    compute: {
      azEnvironment: 'AzurePublicCloud',
      location: 'westeurope',
      name: 'sentries_3',
      resourceGroupName: 'presync',
      vmId: '02aab8a4-74ef-476e-8182-f6d2ba4166a6',
      vmScaleSetName: 'sentries',
      zone: '2',
    },
    schedule(event, inSeconds) {
      incarnation++;
      events.push({
        ResourceType: 'VirtualMachine',
        EventStatus: 'Scheduled',
        NotBefore: new Date(Date.now() + inSeconds * 1000).toUTCString(),
        Description: 'Host server is undergoing maintenance.',
        EventSource: 'Platform',
        DurationInSeconds: -1,
        ...event,
      });
    },
    begin(id) {
      incarnation++;
      for (const event of events) {
        if (event.EventId === id) Object.assign(event, { EventStatus: 'Started', NotBefore: '' });
      }
    },
    end(id) {
      incarnation++;
      const at = events.findIndex(({ EventId }) => EventId === id);
      if (at >= 0) events.splice(at, 1);
    },
    approved: [],
    failing: undefined,
    get asked() {
      return asked;
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return standIn;
}
