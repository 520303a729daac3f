import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { freePort, stopChild, waitForPort } from './ports.ts';

export interface Nginx {
  /** `http://127.0.0.1:PORT` */
  url: string;
  port: number;
  stop(): Promise<void>;
}

/** The nginx executable on the path, also where only root looks. */
export function findNginx(): string | undefined {
  return [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
    .map((dir) => join(dir, 'nginx'))
    .find((path) => existsSync(path));
}

/** Starts nginx with the `http` block's content that `configure` gives for a port, in a temporary folder. */
export async function startNginx(configure: (port: number, dir: string) => string): Promise<Nginx> {
  const binary = findNginx();
  if (binary === undefined) throw new Error('nginx is not to be found');
  const dir = await mkdtemp(join(tmpdir(), 'presync-nginx-'));
  const port = await freePort();
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `  ${name}_temp_path ${dir}/${name};`,
  );
  const config = [
    'daemon off;',
    'master_process off;',
    `pid ${dir}/nginx.pid;`,
    'events { worker_connections 512; }',
    'http {',
    '  access_log off;',
    ...temporary,
    configure(port, dir),
    '}',
  ];
  await writeFile(join(dir, 'nginx.conf'), `${config.join('\n')}\n`);
  const child = spawn(binary, ['-p', dir, '-c', join(dir, 'nginx.conf'), '-e', join(dir, 'error.log')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await waitForPort(child, port, 'nginx');
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: `http://127.0.0.1:${port}`, port, stop };
}

/** A web server for the files of a folder. */
export function staticSite(port: number, root: string): string {
  return `  server { listen 127.0.0.1:${port}; root ${root}; default_type application/octet-stream; }`;
}
