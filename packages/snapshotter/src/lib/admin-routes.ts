import { isPresyncError, messageOf } from '@presync/runtime/errors';
import type { FastifyInstance } from 'fastify';
import type { History } from '../history.ts';
import { isAuthorized } from './bearer.ts';
import type { Runner } from './runner.ts';

export interface AdminRoutesOptions {
  history: Pick<History, 'runs'>;
  runner: Pick<Runner, 'start'>;
  /** Without one there is no route that does anything. */
  token: string | undefined;
}

const DEFAULT_RUNS = 50;
const MOST_RUNS = 1000;

/**
 * `GET /runs?limit=N` (the newest first), `GET /runs/latest`, and, where there is a token, `POST /run`, which answers 202 with the run's id at once, or
 * 409 when a run is under way.
 */
export function addAdminRoutes(app: FastifyInstance, { history, runner, token }: AdminRoutesOptions): void {
  app.get<{ Querystring: { limit?: string } }>('/runs', async (request, reply) => {
    const { limit = String(DEFAULT_RUNS) } = request.query;
    const count = /^\d{1,4}$/.test(limit) ? Number(limit) : 0;
    if (count < 1 || count > MOST_RUNS) {
      return reply.code(400).send({ error: `limit must be a number from 1 to ${MOST_RUNS}` });
    }
    return reply.header('cache-control', 'no-store').send({ runs: history.runs.slice(-count).reverse() });
  });
  app.get('/runs/latest', async (_request, reply) => {
    const latest = history.runs.at(-1);
    if (latest === undefined) return reply.code(404).send({ error: 'there was no run yet' });
    return reply.header('cache-control', 'no-store').send(latest);
  });
  if (token === undefined) return;
  app.post('/run', async (request, reply) => {
    if (!isAuthorized(request.headers.authorization, token)) {
      return reply.code(401).header('www-authenticate', 'Bearer').send({ error: 'a bearer token is wanted' });
    }
    try {
      return reply.code(202).send({ id: runner.start('http').run.id });
    } catch (error) {
      if (!isPresyncError(error, 'LOCKED')) throw error;
      return reply.code(409).send({ error: messageOf(error) });
    }
  });
}
