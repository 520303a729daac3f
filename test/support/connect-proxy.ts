import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';

export interface ConnectProxy {
  host: string;
  /** `host:port` of each tunnel that was asked for, and what authorizes it. */
  asked: { target: string; authorization: string | undefined }[];
  /** Whether tunnels are refused for want of a password. */
  refusing: boolean;
  stop(): Promise<void>;
}

/** An HTTP proxy on 127.0.0.1 for tunnels, each of which leads to the port of 127.0.0.1 that `portOf` names, whatever the host. */
export async function startConnectProxy(portOf: (target: URL) => number): Promise<ConnectProxy> {
  const open = new Set<Duplex>();
  const server = createServer((_, response) => response.writeHead(500).end());
  server.on('connect', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const target = request.url ?? '';
    proxy.asked.push({ target, authorization: request.headers['proxy-authorization'] });
    if (proxy.refusing) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    const through = connect(portOf(new URL(`http://${target}`)), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      through.write(head);
      through.pipe(socket).pipe(through);
    });
    for (const end of [socket, through]) {
      open.add(end);
      end.on('error', () => undefined);
      end.on('close', () => open.delete(end));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const proxy: ConnectProxy = {
    host: `127.0.0.1:${address.port}`,
    asked: [],
    refusing: false,
    async stop() {
      for (const end of open) end.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
