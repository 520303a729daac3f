/** `presync serve` for tests, and the certificates that it may ask for. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { type RunningPresync, startPresync } from './presync.ts';

export interface Peer {
  /** For `--store` and `--source`. */
  url: string;
  running: RunningPresync;
  /** What it has said on standard error so far. */
  log(): string;
  /** Kills it. */
  stop(): Promise<void>;
}

/** `presync serve` that is killed when the test ends. */
export async function startPeer(t: Pick<TestContext, 'after'>, args: readonly string[]): Promise<Peer> {
  const peer = await runPeer(args);
  t.after(() => peer.stop());
  return peer;
}

/** `presync serve` on a free port of 127.0.0.1 when nothing else is said, with the URL that it printed. */
export async function runPeer(args: readonly string[]): Promise<Peer> {
  const listen = args.includes('--listen') ? [] : ['--listen', '127.0.0.1:0'];
  const running = startPresync(['serve', ...listen, '--admin-listen', 'none', ...args]);
  let log = '';
  running.child.stderr?.on('data', (text: string) => {
    log += text;
  });
  const url = await new Promise<string>((resolve, reject) => {
    let said = '';
    running.child.stdout?.on('data', (text: string) => {
      said += text;
      const found = /Offered at (\S+)/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    });
    running.done.then(({ stderr }) => reject(new Error(`presync serve ended: ${stderr}`)), reject);
  });
  return {
    url,
    running,
    log: () => log,
    async stop() {
      running.child.kill('SIGKILL');
      await running.done;
    },
  };
}

export interface Certificates {
  ca: string;
  serverCert: string;
  serverKey: string;
  clientCert: string;
  clientKey: string;
}

/** An authority of the test's own, a server's certificate for localhost, and a client's. */
export async function makeCertificates(dir: string): Promise<Certificates> {
  const script = `
    cd "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca
    for who in server client; do
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $who.key -out $who.csr -subj /CN=$who
      printf 'subjectAltName=DNS:localhost' > $who.ext
      openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 2 -extfile $who.ext
    done`;
  await promisify(execFile)('bash', ['-ec', script, 'bash', dir]);
  const path = (name: string): string => join(dir, name);
  return {
    ca: path('ca.pem'),
    serverCert: path('server.pem'),
    serverKey: path('server.key'),
    clientCert: path('client.pem'),
    clientKey: path('client.key'),
  };
}
