import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { Notice } from '../cloud.ts';
import { badAnswer, fieldOf, jsonOf, type MetadataClient, textFieldOf, timeOf } from './cloud-metadata.ts';
import type { NoticeSource } from './cloud-watch.ts';

/** EC2's metadata, version 2 of the service only. */
export interface Imds {
  /** The text under `/latest/…`; undefined where there is none (404). */
  get(path: string, signal: AbortSignal): Promise<string | undefined>;
}

/** The longest that there is. */
const TOKEN_TTL_S = 21_600;

/** A token that ends sooner is not used any more. */
const TOKEN_MARGIN_MS = 60_000;

/** How often the paths are looked at: AWS advises 5 seconds for spot instances. */
const EVERY_MS = 5000;

/** What the instance's group is about to make of it; there is none for an instance of no group. */
export const TARGET_STATE = 'meta-data/autoscaling/target-lifecycle-state';

const UNREACHABLE_HINT =
  'in a container the answer must be let go one hop further: set the hop limit of the instance metadata options to 2 (aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2); elsewhere check that this is EC2, and that no firewall keeps 169.254.169.254 from presync';

const FORBIDDEN_HINT =
  'switch the service on (aws ec2 modify-instance-metadata-options --http-endpoint enabled), and let no proxy stand before it: one that adds X-Forwarded-For is refused';

/**
 * Sessions as https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html has them: a token is put,
 * sent with each question, and renewed before it ends or when it is refused (401), as after a stop and start of the instance. Without a
 * token nothing is asked, so version 1 is never fallen back to.
 */
export function createImds(client: MetadataClient): Imds {
  let held: { token: string; endsAt: number } | undefined;
  let asked: Promise<string> | undefined;

  async function newToken(signal: AbortSignal): Promise<string> {
    const call = { method: 'PUT', path: '/latest/api/token', hint: UNREACHABLE_HINT, signal } as const;
    const { status, headers, text } = await client.ask({
      ...call,
      headers: { 'x-aws-ec2-metadata-token-ttl-seconds': String(TOKEN_TTL_S) },
    });
    if (status === 403) throw forbidden();
    if (status !== 200 || text === '' || /\s/.test(text))
      throw badAnswer(call, `status ${status} and no token`);
    const seconds = Number(headers['x-aws-ec2-metadata-token-ttl-seconds'] ?? TOKEN_TTL_S);
    held = { token: text, endsAt: performance.now() + seconds * 1000 };
    return text;
  }

  async function token(signal: AbortSignal): Promise<string> {
    if (held !== undefined && performance.now() < held.endsAt - TOKEN_MARGIN_MS) return held.token;
    // Whoever else needs one meanwhile shares the question; when its asker gives up, the next one asks anew.
    if (asked !== undefined) {
      try {
        return await asked;
      } catch (error) {
        if (!isPresyncError(error, 'ABORTED')) throw error;
      }
    }
    asked = newToken(signal).finally(() => {
      asked = undefined;
    });
    return asked;
  }

  return {
    async get(path, signal) {
      for (let attempt = 1; ; attempt++) {
        const used = await token(signal);
        const call = { path: `/latest/${path}`, hint: UNREACHABLE_HINT, signal };
        const { status, text } = await client.ask({ ...call, headers: { 'x-aws-ec2-metadata-token': used } });
        if (status === 200) return text;
        if (status === 404) return undefined;
        if (status === 403) throw forbidden();
        if (status !== 401 || attempt > 1) throw badAnswer(call, `status ${status}`);
        if (held?.token === used) held = undefined;
      }
    },
  };
}

function forbidden(): PresyncError {
  return new PresyncError('CLOUD_FORBIDDEN', "EC2's metadata service refuses to answer", {
    retryable: true,
    hint: FORBIDDEN_HINT,
  });
}

export interface AwsIdentity {
  id: string;
  region: string;
  zone: string | undefined;
}

/** The instance identity document, which clouds that only resemble EC2 do not have. */
export async function awsIdentity(imds: Imds, signal: AbortSignal): Promise<AwsIdentity> {
  const path = 'dynamic/instance-identity/document';
  const document = jsonOf({ path }, (await imds.get(path, signal)) ?? '');
  const id = textFieldOf(document, 'instanceId');
  const region = textFieldOf(document, 'region');
  if (id === undefined || !id.startsWith('i-') || region === undefined)
    throw badAnswer({ path }, 'a document without instance and region');
  return { id, region, zone: textFieldOf(document, 'availabilityZone') };
}

/** Where an instance is told what will become of it; each path is absent until there is something to tell. */
export function awsSources(imds: Imds): NoticeSource[] {
  let served = false;
  const source = (name: string, path: string, read: (text: string) => readonly Notice[]): NoticeSource => ({
    name,
    everyMs: EVERY_MS,
    async look(signal) {
      const text = await imds.get(path, signal);
      return text === undefined ? [] : read(text);
    },
  });

  return [
    source('spot', 'meta-data/spot/instance-action', (text) => [
      readSpot(jsonOf({ path: 'meta-data/spot/instance-action' }, text)),
    ]),
    source('rebalance', 'meta-data/events/recommendations/rebalance', () => [REBALANCE]),
    source('maintenance', 'meta-data/events/maintenance/scheduled', (text) =>
      readEvents(jsonOf({ path: 'meta-data/events/maintenance/scheduled' }, text)),
    ),
    source('scale-in', TARGET_STATE, (text) => {
      const target = text.trim();
      served ||= target === 'InService';
      return leaves(target, served) ? [scaleIn(target)] : [];
    }),
  ];
}

/** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html */
function readSpot(action: object): Notice {
  const what = textFieldOf(action, 'action') ?? 'terminate';
  return {
    id: 'spot',
    kind: 'preemption',
    effect: what === 'terminate' ? 'ends' : 'restarts',
    state: 'ahead',
    deadline: timeOf(textFieldOf(action, 'time')),
    detail: `EC2 takes this spot instance back: ${what}`,
  };
}

/** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html: it comes with the time of the notice, and no deadline. */
const REBALANCE: Notice = {
  id: 'rebalance',
  kind: 'rebalance',
  effect: 'none',
  state: 'ahead',
  deadline: undefined,
  detail: 'EC2 is likely to take this spot instance back',
};

/** What each code of https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instances-status-check_sched.html does. */
const EFFECTS: Readonly<Record<string, Notice['effect']>> = {
  'instance-reboot': 'restarts',
  'system-reboot': 'restarts',
  'system-maintenance': 'pauses',
  'instance-retirement': 'ends',
  'instance-stop': 'ends',
};

function readEvents(events: object): Notice[] {
  if (!Array.isArray(events)) return [];
  return events.flatMap((event): Notice[] => {
    // Those that are completed or cancelled stay in the list.
    if (fieldOf(event, 'State') !== 'active') return [];
    const code = textFieldOf(event, 'Code') ?? 'unknown';
    const deadline = timeOf(textFieldOf(event, 'NotBefore'));
    return [
      {
        id: textFieldOf(event, 'EventId') ?? code,
        kind: 'maintenance',
        effect: EFFECTS[code] ?? 'restarts',
        state: deadline !== undefined && deadline.getTime() <= Date.now() ? 'begun' : 'ahead',
        deadline,
        detail: `EC2 has scheduled ${code}: ${textFieldOf(event, 'Description') ?? 'no description'}`,
      },
    ];
  });
}

/**
 * https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html: a launch into a warm pool has
 * `Warmed:…` as its target, too; an instance that has served goes there when the group scales in.
 */
function leaves(target: string, served: boolean): boolean {
  return (
    target === 'Terminated' || target === 'Warmed:Terminated' || (served && target.startsWith('Warmed:'))
  );
}

function scaleIn(target: string): Notice {
  const toPool = target.startsWith('Warmed:') && target !== 'Warmed:Terminated';
  return {
    id: `scale-in:${target}`,
    kind: 'scale-in',
    effect: toPool ? 'restarts' : 'ends',
    state: 'ahead',
    // How long the group waits is the hook's matter.
    deadline: undefined,
    detail: `the Auto Scaling group takes this instance out: its next state is ${target}`,
  };
}
