/**
 * The API of EC2 Auto Scaling, for one instance of one group. AWS publishes no server of it, and moto knows no lifecycle actions. It speaks the
 * Query protocol of API version 2011-01-01, checks each signature, holds parameters to what the API's reference demands of them, and
 * lets hooks time out: the instance is then put in service or thrown away, as the hook's default says
 * (https://docs.aws.amazon.com/autoscaling/ec2/APIReference/).
 */
import { createServer } from 'node:http';
import { sha256, signatureOf } from './sigv4.ts';

const ACCESS = 'presync-test-role';
const SECRET = 'presync-test-secret-of-the-role';
const REGION = 'us-east-1';

export interface StandInHook {
  name: string;
  transition: 'autoscaling:EC2_INSTANCE_LAUNCHING' | 'autoscaling:EC2_INSTANCE_TERMINATING';
  /** Seconds. AWS takes none below 30; tests have not the time. */
  heartbeatTimeout: number;
  globalTimeout: number;
}

export interface AutoScalingStandIn {
  /** What a process needs in its environment to use it. */
  env: Record<string, string>;
  group: string;
  hooks: StandInHook[];
  /** Of the instance, as `Pending:Wait`; undefined: it is in no group. */
  state: string | undefined;
  /** Each call that was let in, with its parameters. */
  calls: Record<string, string>[];
  /** Answers in place of the next ones: status and code of an error. */
  refusals: { action?: string; status: number; code: string; message?: string }[];
  /** The group begins to wait at a hook. */
  wait(hook: string, state: string): void;
  /** How the last wait ended: a result, or `TIMEOUT`. */
  readonly ended: string | undefined;
  stop(): Promise<void>;
}

class Refusal extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Of each parameter: the form that the reference gives. */
const FORMS: Readonly<Record<string, RegExp>> = {
  AutoScalingGroupName: /^[\s\S]{1,255}$/,
  LifecycleHookName: /^[A-Za-z0-9\-_/]{1,255}$/,
  LifecycleActionResult: /^(?:CONTINUE|ABANDON)$/,
  InstanceId: /^.{1,19}$/,
  'InstanceIds.member.1': /^.{1,19}$/,
};

const REQUIRED: Readonly<Record<string, readonly string[]>> = {
  CompleteLifecycleAction: [
    'LifecycleHookName',
    'AutoScalingGroupName',
    'LifecycleActionResult',
    'InstanceId',
  ],
  RecordLifecycleActionHeartbeat: ['LifecycleHookName', 'AutoScalingGroupName', 'InstanceId'],
  DescribeAutoScalingInstances: ['InstanceIds.member.1'],
  DescribeLifecycleHooks: ['AutoScalingGroupName'],
};

export async function startAutoScaling(instanceId: string): Promise<AutoScalingStandIn> {
  let waiting: { hook: StandInHook; begun: number; until: number } | undefined;
  let ended: string | undefined;

  function active(name: string | undefined): { hook: StandInHook; begun: number; until: number } {
    if (waiting !== undefined && Date.now() > waiting.until) {
      waiting = undefined;
      ended = 'TIMEOUT';
    }
    if (waiting === undefined || waiting.hook.name !== name)
      throw new Refusal(
        400,
        'ValidationError',
        `No active Lifecycle Action found with instance ID ${instanceId}`,
      );
    return waiting;
  }

  const ACTIONS: Readonly<Record<string, (call: Record<string, string>) => string>> = {
    CompleteLifecycleAction({ LifecycleHookName, LifecycleActionResult = '' }) {
      active(LifecycleHookName);
      waiting = undefined;
      ended = LifecycleActionResult;
      standIn.state = standIn.state?.replace(/:Wait$/, ':Proceed');
      return '';
    },
    RecordLifecycleActionHeartbeat({ LifecycleHookName }) {
      const wait = active(LifecycleHookName);
      const { heartbeatTimeout, globalTimeout } = wait.hook;
      wait.until = Math.min(Date.now() + heartbeatTimeout * 1000, wait.begun + globalTimeout * 1000);
      return '';
    },
    DescribeAutoScalingInstances: (call) =>
      standIn.state === undefined || call['InstanceIds.member.1'] !== instanceId
        ? '<AutoScalingInstances/>'
        : `<AutoScalingInstances><member><InstanceId>${instanceId}</InstanceId><AutoScalingGroupName>${standIn.group}</AutoScalingGroupName><AvailabilityZone>us-east-1f</AvailabilityZone><LifecycleState>${standIn.state}</LifecycleState><HealthStatus>HEALTHY</HealthStatus><ProtectedFromScaleIn>false</ProtectedFromScaleIn></member></AutoScalingInstances>`,
    DescribeLifecycleHooks: () =>
      `<LifecycleHooks>${standIn.hooks
        .map(
          (hook) =>
            `<member><LifecycleHookName>${hook.name}</LifecycleHookName><AutoScalingGroupName>${standIn.group}</AutoScalingGroupName><LifecycleTransition>${hook.transition}</LifecycleTransition><HeartbeatTimeout>${hook.heartbeatTimeout}</HeartbeatTimeout><GlobalTimeout>${hook.globalTimeout}</GlobalTimeout><DefaultResult>ABANDON</DefaultResult></member>`,
        )
        .join('')}</LifecycleHooks>`,
  };

  function answer(call: Record<string, string>): string {
    const { Action = '', Version, AutoScalingGroupName } = call;
    const refused = standIn.refusals.findIndex(({ action = Action }) => action === Action);
    const [refusal] = refused < 0 ? [] : standIn.refusals.splice(refused, 1);
    if (refusal !== undefined) throw new Refusal(refusal.status, refusal.code, refusal.message ?? 'as told');
    const work = ACTIONS[Action];
    if (work === undefined || Version !== '2011-01-01')
      throw new Refusal(400, 'InvalidAction', `Could not find operation ${Action} for version ${Version}`);
    for (const name of REQUIRED[Action] ?? []) {
      if (call[name] === undefined) throw new Refusal(400, 'ValidationError', `${name} is missing`);
    }
    for (const [name, form] of Object.entries(FORMS)) {
      const value = call[name];
      if (value !== undefined && !form.test(value))
        throw new Refusal(400, 'ValidationError', `${name} failed to satisfy constraint ${form}`);
    }
    standIn.calls.push(call);
    if (AutoScalingGroupName !== undefined && AutoScalingGroupName !== standIn.group)
      throw new Refusal(400, 'ValidationError', `AutoScalingGroup name not found - ${AutoScalingGroupName}`);
    return `<${Action}Response xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><${Action}Result>${work(call)}</${Action}Result><ResponseMetadata><RequestId>7c6e177f-f082-11e1-ac58-3714bEXAMPLE</RequestId></ResponseMetadata></${Action}Response>`;
  }

  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      try {
        assertSigned(request.method ?? '', request.url ?? '', request.headers, body);
        const text = answer(Object.fromEntries(new URLSearchParams(body)));
        response.writeHead(200, { 'content-type': 'text/xml' }).end(text);
      } catch (error) {
        const { status = 500, code = 'InternalFailure', message } = error as Partial<Refusal>;
        response
          .writeHead(status, { 'content-type': 'text/xml' })
          .end(
            `<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><Error><Type>Sender</Type><Code>${code}</Code><Message>${message}</Message></Error><RequestId>6c6e177f</RequestId></ErrorResponse>`,
          );
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const standIn: AutoScalingStandIn = {
    env: {
      AWS_ENDPOINT_URL_AUTO_SCALING: `http://127.0.0.1:${address.port}`,
      AWS_ACCESS_KEY_ID: ACCESS,
      AWS_SECRET_ACCESS_KEY: SECRET,
    },
    group: 'sentries',
    hooks: [],
    state: 'InService',
    calls: [],
    refusals: [],
    wait(name, state) {
      const hook = standIn.hooks.find((candidate) => candidate.name === name);
      if (hook === undefined) throw new Error(`no hook ${name}`);
      waiting = { hook, begun: Date.now(), until: Date.now() + hook.heartbeatTimeout * 1000 };
      ended = undefined;
      standIn.state = state;
    },
    get ended() {
      if (waiting !== undefined && Date.now() > waiting.until) return 'TIMEOUT';
      return ended;
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return standIn;
}

function assertSigned(
  method: string,
  url: string,
  headers: Parameters<typeof signatureOf>[0]['headers'],
  body: string,
): void {
  const parts =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(
      headers.authorization ?? '',
    );
  if (parts === null) throw new Refusal(403, 'MissingAuthenticationToken', 'no signature');
  const [, access, , region, service, signed = '', signature] = parts;
  if (access !== ACCESS) throw new Refusal(403, 'InvalidClientTokenId', 'nobody has that key');
  const signedHeaders = signed.split(';');
  const right = signatureOf(
    { method, url, headers, signedHeaders, payload: sha256(body) },
    { secret: SECRET, region: REGION, service: 'autoscaling' },
  );
  if (
    region !== REGION ||
    service !== 'autoscaling' ||
    !signedHeaders.includes('host') ||
    right !== signature
  )
    throw new Refusal(403, 'SignatureDoesNotMatch', 'the signature is not that of this request');
}
