/** Field names whose values never leave the process. */
const SECRET_NAME =
  /secret|passw|token|credential|authorization|cookie|private[-_]?key|access[-_]?key|api[-_]?key|signature$|^sig$/i;

const HIDDEN = '[hidden]';

/** True for the name of a field or query parameter whose value is likely to be a secret. */
export function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name);
}

/**
 * The text without what must not be printed: the user and password of URLs, query parameters that carry credentials
 * (signed URLs have them), and PEM private keys.
 */
export function redactText(text: string): string {
  return text
    .replaceAll(
      /-----BEGIN ([A-Z ]*)PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
      `[private key ${HIDDEN.slice(1)}`,
    )
    .replaceAll(/([a-z][a-z0-9+.-]*:\/\/)[^/?#\s"']*@/gi, `$1${HIDDEN}@`)
    .replaceAll(/([?&])([^=&#\s"']+)=([^&#\s"']*)/g, (whole, mark: string, name: string) =>
      isSecretName(name) ? `${mark}${name}=${HIDDEN}` : whole,
    );
}

/** A log record may nest so deep; what is deeper is cut, so that a cycle or a huge object cannot stop the log. */
const MAX_DEPTH = 6;

/** The same for a whole record: values of secret names are hidden at any depth, and texts are redacted. */
export function redactValue(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactText(value);
  if (typeof value === 'bigint') return value.toString();
  if (value === null || typeof value !== 'object') return value;
  if (depth >= MAX_DEPTH) return '[…]';
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (value instanceof Date || value instanceof URL) return redactText(value.toJSON());
  if (Array.isArray(value)) return value.map((item) => redactValue(item, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      name,
      isSecretName(name) ? HIDDEN : redactValue(item, depth + 1),
    ]),
  );
}
