import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { freePort, stopChild, waitForPort } from './ports.ts';

export interface Varnish {
  /** `http://127.0.0.1:PORT` */
  url: string;
  stop(): Promise<void>;
}

/** The varnishd executable on the path, also where only root looks. */
export function findVarnish(): string | undefined {
  return [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
    .map((dir) => join(dir, 'varnishd'))
    .find((path) => existsSync(path));
}

/** Varnish in front of a server on 127.0.0.1. A `PURGE` request of any path empties the cache; answers tell in `x-cache` whether they were hits. */
export async function startVarnish(backendPort: number, pathPrefix: string): Promise<Varnish> {
  const binary = findVarnish();
  if (binary === undefined) throw new Error('varnishd is not to be found');
  const dir = await mkdtemp(join(tmpdir(), 'presync-varnish-'));
  const port = await freePort();
  const vcl = `vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "${backendPort}"; }
sub vcl_recv {
  if (req.method == "PURGE") { ban("obj.status != 0"); return (synth(200, "purged")); }
  set req.url = "${pathPrefix}" + req.url;
  unset req.http.Cookie;
}
sub vcl_deliver { if (obj.hits > 0) { set resp.http.x-cache = "hit"; } else { set resp.http.x-cache = "miss"; } }
`;
  await writeFile(join(dir, 'default.vcl'), vcl);
  const child = spawn(
    binary,
    [
      ...['-F', '-n', join(dir, 'work'), '-a', `127.0.0.1:${port}`, '-f', join(dir, 'default.vcl')],
      // No jail: it wants users that the machine may not have. No management port either.
      ...['-j', 'none', '-s', 'malloc,128m', '-T', 'none'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await waitForPort(child, port, 'varnishd');
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: `http://127.0.0.1:${port}`, stop };
}
