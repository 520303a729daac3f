/** A socket as systemd has one for the notices of services (sd_notify(3)). Node has no datagrams on Unix sockets, so Python holds it. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';

export interface NotifySocket {
  /** What has come so far, a datagram each. */
  readonly said: readonly string[];
  /** Resolves when so many have come. */
  has(count: number): Promise<void>;
}

const RECEIVER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('"bound"', flush=True)
while True:
    print(json.dumps(s.recv(4096).decode()), flush=True)
`;

export function hasNotify(): boolean {
  return ['systemd-notify', 'python3'].every(
    (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined,
  );
}

export async function openNotifySocket(
  t: { after(fn: () => void): void },
  path: string,
): Promise<NotifySocket> {
  const child = spawn('python3', ['-c', RECEIVER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => void child.kill('SIGKILL'));
  const said: string[] = [];
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    // systemd-notify adds one, to learn when systemd has read the others.
    said.push(...lines.map((line) => String(JSON.parse(line))).filter((line) => line !== 'BARRIER=1'));
  });
  while (!said.includes('bound')) await once(child.stdout, 'data');
  said.shift();
  return {
    said,
    has: async (count) => {
      while (said.length < count) await once(child.stdout, 'data');
    },
  };
}
