import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import { inspect } from 'node:util';
import {
  formatPublicKey,
  generateKey,
  openEnvelope,
  parsePrivateKey,
  parsePublicKey,
  sealEnvelope,
} from '@presync/format/signature';
import fc from 'fast-check';
import { coded } from './support.ts';

const payload = Buffer.from('{"presync":"manifest"}');
const [first, second, third] = [generateKey(), generateKey(), generateKey()];

interface Envelope {
  payloadType: string;
  payload: string;
  signatures: { keyid: string; sig: string }[];
}

function altered(bytes: Buffer, change: (envelope: Envelope) => void): Buffer {
  const envelope = JSON.parse(bytes.toString()) as Envelope;
  change(envelope);
  return Buffer.from(`${JSON.stringify(envelope, null, 2)}\n`);
}

test('an envelope is opened by any of several trusted keys, as a rotation needs', () => {
  const sealed = sealEnvelope(payload, [first, second]);
  for (const trusted of [[first], [second], [third, second], [first, second, third]]) {
    const opened = openEnvelope(sealed, trusted, 'm');
    assert.deepEqual(opened.payload, payload);
    assert.deepEqual(opened.signedBy, [first.id, second.id]);
    assert.deepEqual(
      opened.trustedBy,
      [first.id, second.id].filter((id) => trusted.some((key) => key.id === id)),
    );
  }
});

test('unknown keys only, or no trusted key at all, is MANIFEST_UNTRUSTED; no signature is MANIFEST_UNSIGNED', () => {
  assert.throws(
    () => openEnvelope(sealEnvelope(payload, [first, second]), [third], 'm'),
    coded('MANIFEST_UNTRUSTED'),
  );
  assert.throws(() => openEnvelope(sealEnvelope(payload, [first]), [], 'm'), coded('MANIFEST_UNTRUSTED'));
  assert.throws(() => openEnvelope(sealEnvelope(payload, []), [first], 'm'), coded('MANIFEST_UNSIGNED'));
  assert.deepEqual(openEnvelope(sealEnvelope(payload, []), 'anybody', 'm').payload, payload);
});

test('a wrong signature under a trusted id is refused, even beside a good one', () => {
  const sealed = sealEnvelope(payload, [first, second]);
  const forged = altered(sealed, ({ signatures: [a, b] }) => {
    if (a !== undefined && b !== undefined) b.sig = a.sig;
  });
  assert.throws(() => openEnvelope(forged, [second], 'm'), coded('MANIFEST_UNTRUSTED'));
  assert.throws(() => openEnvelope(forged, [first, second], 'm'), coded('MANIFEST_UNTRUSTED'));
});

test('a signature over another payload, or over the bare payload, is refused', () => {
  const other = JSON.parse(sealEnvelope(Buffer.from('{}'), [first]).toString()) as Envelope;
  const moved = altered(sealEnvelope(payload, [first]), (envelope) => {
    envelope.signatures = other.signatures;
  });
  assert.throws(() => openEnvelope(moved, [first], 'm'), coded('MANIFEST_UNTRUSTED'));
});

test('key ids that stand twice, other payload types and base64 that is not canonical are refused', () => {
  const sealed = sealEnvelope(payload, [first]);
  const changes: ((envelope: Envelope) => void)[] = [
    (e) => e.signatures.push(...e.signatures),
    (e) => {
      e.payloadType = 'application/json';
    },
    (e) => {
      e.payload = `${e.payload.slice(0, -1)}`;
    },
    (e) => {
      e.payload = `${e.payload}=`;
    },
    (e) => {
      e.payload = ` ${e.payload}`;
    },
  ];
  for (const change of changes) {
    assert.throws(
      () => openEnvelope(altered(sealed, change), [first], 'm'),
      coded('FORMAT_INVALID'),
      String(change),
    );
  }
});

test('a key that is given twice signs once, and more keys than a reader takes are refused', () => {
  assert.deepEqual(openEnvelope(sealEnvelope(payload, [first, first]), [first], 'm').signedBy, [first.id]);
  const many = Array.from({ length: 17 }, () => generateKey());
  assert.throws(() => sealEnvelope(payload, many), coded('KEY_INVALID'));
  assert.deepEqual(openEnvelope(sealEnvelope(payload, many.slice(0, 16)), many, 'm').trustedBy.length, 16);
});

test('every flip of any bit of an envelope is refused, or leaves payload and trust as they were', () => {
  const sealed = sealEnvelope(payload, [first, second]);
  for (let at = 0; at < sealed.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const flipped = Buffer.from(sealed);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << bit);
      try {
        assert.deepEqual(openEnvelope(flipped, [first], 'm').payload, payload, `byte ${at}, bit ${bit}`);
      } catch (error) {
        coded('FORMAT_INVALID', 'MANIFEST_UNTRUSTED')(error);
      }
    }
  }
});

test('arbitrary bytes and arbitrary JSON never cause anything but a PresyncError', () => {
  const signed = fc.record({
    payloadType: fc.constantFrom('application/vnd.presync.manifest+json', 'x'),
    payload: fc.oneof(fc.base64String(), fc.string()),
    signatures: fc.array(
      fc.record({ keyid: fc.constantFrom(first.id, 'k'), sig: fc.oneof(fc.base64String(), fc.string()) }),
    ),
  });
  const input = fc.oneof(
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    fc.json().map((text) => Buffer.from(text)),
    signed.map((envelope) => Buffer.from(`${JSON.stringify(envelope, null, 2)}\n`)),
  );
  fc.assert(
    fc.property(input, (bytes) => {
      assert.throws(
        () => openEnvelope(bytes, [first], 'm'),
        coded('FORMAT_INVALID', 'MANIFEST_UNSIGNED', 'MANIFEST_UNTRUSTED'),
      );
    }),
    { numRuns: 1000 },
  );
});

test('control characters in a key id do not reach a terminal through the message', () => {
  const hostile = altered(sealEnvelope(payload, [first]), ({ signatures: [a] }) => {
    if (a !== undefined) a.keyid = '\u001b[2J';
  });
  assert.throws(
    () => openEnvelope(hostile, [first], 'm'),
    (error) =>
      error instanceof Error && !error.message.includes('\u001b') && coded('MANIFEST_UNTRUSTED')(error),
  );
});

test('a public key survives its text form, and has the id of its private key', () => {
  const read = parsePublicKey(`${formatPublicKey(first)}\n`, 'k');
  assert.equal(read.id, first.id);
  assert.equal(read.id, parsePrivateKey(first.pem, 'k').id);
  assert.equal(
    parsePublicKey(first.key.export({ format: 'pem', type: 'spki' }).toString(), 'k').id,
    first.id,
  );
  assert.deepEqual(
    openEnvelope(sealEnvelope(payload, [parsePrivateKey(first.pem, 'k')]), [read], 'm').payload,
    payload,
  );
});

test('key material is in no error: not in the message, the stack, the cause or any property', () => {
  const body = first.pem.split('\n')[1] ?? '';
  const seed = Buffer.from(body, 'base64').subarray(-32);
  const rsa = generateKeyPairSync('rsa', { modulusLength: 1024 })
    .privateKey.export({ format: 'pem', type: 'pkcs8' })
    .toString();
  const secrets = [
    body,
    seed.toString('hex'),
    seed.toString('base64url'),
    seed.toString('base64'),
    rsa.split('\n')[3] ?? '',
  ];
  const attempts: (() => unknown)[] = [
    () => parsePublicKey(first.pem, 'k'),
    () => parsePublicKey(` \n${first.pem}`, 'k'),
    () => parsePublicKey(first.pem.replaceAll('\n', ' '), 'k'),
    () => parsePublicKey(body, 'k'),
    () => parsePublicKey(`ed25519:${body}`, 'k'),
    () => parsePublicKey(rsa, 'k'),
    () => parsePrivateKey(rsa, 'k'),
    () => parsePrivateKey(first.pem.slice(0, -30), 'k'),
    () => parsePrivateKey(body, 'k'),
    () => parsePrivateKey(first.pem.replace(body, `${body.slice(0, -4)}!!!!`), 'k'),
  ];
  for (const attempt of attempts) {
    assert.throws(attempt, (error) => {
      coded('KEY_INVALID')(error);
      const shown = inspect(error, { depth: 20, showHidden: true }) + JSON.stringify(error);
      for (const secret of secrets) assert.ok(!shown.includes(secret.slice(4, 30)), String(attempt));
      return true;
    });
  }
});

test('keys that are not Ed25519, and texts that are no keys, are KEY_INVALID', () => {
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const texts = ['', 'ed25519:', 'ed25519:AA', `ed25519:${'A'.repeat(80)}`, 'x'.repeat(10_000)];
  for (const text of [...texts, ec.publicKey.export({ format: 'pem', type: 'spki' }).toString()]) {
    assert.throws(() => parsePublicKey(text, 'k'), coded('KEY_INVALID'));
    assert.throws(() => parsePrivateKey(text, 'k'), coded('KEY_INVALID'));
  }
  assert.throws(
    () => parsePrivateKey(ec.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(), 'k'),
    coded('KEY_INVALID'),
  );
});
