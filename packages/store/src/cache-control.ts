/**
 * The `Cache-Control` header of an object. A chunk's key names its content, so caches may keep it for as long as they like; what is
 * replaced in place must be asked for again each time (RFC 9111, 5.2.2.4: `no-cache` may be kept, but not used without asking).
 */
export function cacheControl(immutable: boolean): string {
  return immutable ? 'public, max-age=31536000, immutable' : 'no-cache';
}
