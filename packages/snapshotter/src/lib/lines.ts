import type { Socket } from 'node:net';

/** Each line that a peer sends; ends with the connection, and with an error when a line is longer than it may be. The socket stays open. */
export async function* linesOf(socket: Socket, maxBytes: number): AsyncGenerator<string> {
  let rest = '';
  socket.setEncoding('utf8');
  for await (const text of socket.iterator({ destroyOnReturn: false })) {
    rest += text;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      yield rest.slice(0, end);
      rest = rest.slice(end + 1);
    }
    if (rest.length > maxBytes) throw new Error('the line is too long');
  }
}
