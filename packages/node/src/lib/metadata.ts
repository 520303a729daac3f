/** ParityDB's `metadata` is text, `key=value` a line (parity-db `options.rs`). */
const FIELDS = { salt: /^[0-9a-f]{64}$/i, version: /^\d{1,9}$/ } as const;

/** A field of ParityDB's `metadata`; undefined when it is absent, or not what ParityDB writes there. */
export function metadataField(text: string, key: keyof typeof FIELDS): string | undefined {
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${key}=`));
  const value = line?.slice(key.length + 1).trim();
  return value !== undefined && FIELDS[key].test(value) ? value : undefined;
}

/** True for what may be ParityDB's `metadata`. */
export function isMetadata(text: string): boolean {
  return metadataField(text, 'salt') !== undefined && metadataField(text, 'version') !== undefined;
}
