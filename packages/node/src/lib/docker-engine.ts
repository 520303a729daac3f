import { request } from 'node:http';
import { errnoOf, messageOf, PresyncError } from '@presync/runtime/errors';

/** What the engine tells of a container. */
export interface ContainerState {
  /** Whole, whatever name was asked for. */
  id: string;
  running: boolean;
  paused: boolean;
  /** In the engine's PID namespace. */
  pid: number | undefined;
}

export interface EngineAnswer {
  status: number;
  /** The engine's own words on a failure. */
  message: string;
  body: unknown;
}

/** An answer longer than this is none of the engine's. */
const MAX_ANSWER = 4 * 1024 * 1024;
const QUESTION_TIMEOUT_MS = 15_000;

/**
 * One request of the Docker Engine API, which Podman has as well, over its unix socket.
 *
 * @throws NODE_PAUSE_FAILED when nobody answers
 */
export async function askEngine(
  socket: string,
  method: 'GET' | 'POST',
  path: string,
  options: { timeoutMs?: number | undefined; signal?: AbortSignal | undefined } = {},
): Promise<EngineAnswer> {
  const timeout = AbortSignal.timeout(options.timeoutMs ?? QUESTION_TIMEOUT_MS);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
  try {
    return await new Promise<EngineAnswer>((resolve, reject) => {
      const asked = request(
        { socketPath: socket, method, path, headers: { host: 'docker' }, signal },
        (answer) => {
          let text = '';
          answer.setEncoding('utf8');
          answer.on('data', (part: string) => {
            text += part;
            if (text.length > MAX_ANSWER) answer.destroy(new Error('an answer without end'));
          });
          answer.on('error', reject);
          answer.on('end', () => {
            const body = parseJson(text);
            resolve({
              status: answer.statusCode ?? 0,
              message: messageIn(body) ?? text.trim().slice(0, 300),
              body,
            });
          });
        },
      );
      asked.on('error', reject);
      asked.end();
    });
  } catch (error) {
    if (options.signal?.aborted === true && options.signal.reason instanceof PresyncError)
      throw options.signal.reason;
    const code = errnoOf(error);
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `the container engine does not answer at ${socket}: ${timeout.aborted ? 'it took too long' : messageOf(error)}`,
      {
        cause: error,
        hint:
          code === 'EACCES'
            ? 'run presync as root, or as a user of the group docker'
            : 'check that the engine runs, and --docker-socket',
      },
    );
  }
}

/** @throws NODE_NOT_RUNNING when there is no such container, NODE_PAUSE_FAILED */
export async function containerState(
  socket: string,
  name: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<ContainerState> {
  const { status, body, message } = await askEngine(socket, 'GET', `${pathOf(name)}/json`, options);
  if (status === 404) {
    throw new PresyncError('NODE_NOT_RUNNING', `there is no container ${name} at ${socket}`, {
      hint: 'check --container; "docker ps" lists those that run',
    });
  }
  const state = status === 200 && isRecord(body) && isRecord(body.State) ? body.State : undefined;
  if (state === undefined || !isRecord(body) || typeof body.Id !== 'string') {
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `the container engine at ${socket} tells nothing of ${name}: ${status} ${message}`,
      { hint: 'check that --docker-socket is that of an engine' },
    );
  }
  const pid = Number(state.Pid);
  return {
    id: body.Id,
    running: state.Running === true,
    paused: state.Paused === true,
    pid: pid > 0 ? pid : undefined,
  };
}

/** The container's part of a request's path. */
export function pathOf(container: string): string {
  return `/containers/${encodeURIComponent(container)}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function messageIn(body: unknown): string | undefined {
  return isRecord(body) && typeof body.message === 'string' ? body.message : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
