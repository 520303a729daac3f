import { connect, type Socket } from 'node:net';
import { createServer } from 'node:tls';
import type { SelfSigned } from './self-signed.ts';

export interface TlsFront {
  endpoint: string;
  port: number;
  stop(): Promise<void>;
}

/** TLS in front of a plain server: bytes are handed on as they are. With `clients`, only who shows that certificate is let in. */
export async function startTlsFront(
  plain: string,
  identity: SelfSigned,
  options: { clients?: SelfSigned | undefined } = {},
): Promise<TlsFront> {
  const { hostname, port } = new URL(plain);
  const open = new Set<Socket>();
  const { clients } = options;
  const demand =
    clients === undefined ? {} : { requestCert: true, rejectUnauthorized: true, ca: clients.cert };
  const server = createServer({ ...identity, ...demand }, (socket) => {
    const through = connect(Number(port), hostname);
    for (const end of [socket, through]) {
      open.add(end);
      end.on('error', () => undefined);
      end.on('close', () => {
        open.delete(end);
        socket.destroy();
        through.destroy();
      });
    }
    socket.pipe(through).pipe(socket);
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    endpoint: `https://127.0.0.1:${address.port}`,
    port: address.port,
    async stop() {
      for (const end of open) end.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
