import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

/** A TLS identity that is its own authority, in PEM. */
export interface SelfSigned {
  key: string;
  cert: string;
}

const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * Makes one for 127.0.0.1 and the hosts, valid from yesterday for a week: an X.509 certificate (RFC 5280) in DER, since
 * Node only reads them.
 */
export function selfSigned(hosts: readonly string[] = ['localhost']): SelfSigned {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecdsaWithSha256 = sequence(oid(42, 134, 72, 206, 61, 4, 3, 2));
  const name = sequence(
    der(
      0x31,
      sequence(oid(85, 4, 3), der(0x0c, Buffer.from(`presync test ${randomBytes(4).toString('hex')}`))),
    ),
  );
  const names = sequence(
    ...hosts.map((host) => der(0x82, Buffer.from(host))),
    der(0x87, Buffer.from([127, 0, 0, 1])),
  );
  const extensions = sequence(
    sequence(
      oid(85, 29, 19),
      der(0x01, Buffer.from([0xff])),
      octets(sequence(der(0x01, Buffer.from([0xff])))),
    ),
    sequence(oid(85, 29, 17), octets(names)),
  );
  const toBeSigned = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ecdsaWithSha256,
    name,
    sequence(utcTime(Date.now() - DAY_MS), utcTime(Date.now() + 7 * DAY_MS)),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, extensions),
  );
  const signature = sign('sha256', toBeSigned, privateKey);
  const certificate = sequence(
    toBeSigned,
    ecdsaWithSha256,
    der(0x03, Buffer.concat([Buffer.from([0]), signature])),
  );
  const lines = certificate.toString('base64').replaceAll(/.{1,64}/g, '$&\n');
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${lines}-----END CERTIFICATE-----\n`,
  };
}

function der(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}

function sequence(...parts: Buffer[]): Buffer {
  return der(0x30, Buffer.concat(parts));
}

function octets(content: Buffer): Buffer {
  return der(0x04, content);
}

/** `arcs`: the first two already as one; those from 128 on as their two bytes. */
function oid(...arcs: number[]): Buffer {
  return der(0x06, Buffer.from(arcs));
}

function utcTime(at: number): Buffer {
  const text = new Date(at).toISOString().replaceAll(/[-:T]|\.\d+/g, '');
  return der(0x17, Buffer.from(text.slice(2)));
}
