import { createReadStream } from 'node:fs';
import { ioError, PresyncError } from '@presync/runtime/errors';

/** What a chain specification says of itself before its genesis state. */
export interface ChainSpecHead {
  /** The name of the folder below `chains/`. */
  id: string;
  /** The name of a parachain's relay chain. */
  relayChain: string | undefined;
}

/** Keys and their values are short; a state, or code, is not. */
const MAX_TEXT = 512;

/**
 * Reads the top level of a chain specification (sdk `client/chain-spec/src/chain_spec.rs`) up to its genesis state, which may have a hundred
 * megabytes and is not taken in.
 *
 * @throws FORMAT_INVALID for what is no chain specification, IO_FAILED, ABORTED
 */
export async function readChainSpec(
  path: string,
  { signal }: { signal: AbortSignal },
): Promise<ChainSpecHead> {
  const scanner = createScanner();
  try {
    for await (const chunk of createReadStream(path, { encoding: 'utf8', signal }))
      if (scanner.push(String(chunk))) break;
  } catch (error) {
    if (signal.aborted) throw error;
    throw ioError(error, 'read', path);
  }
  const id = scanner.texts.get('id');
  if (id === undefined) {
    throw new PresyncError('FORMAT_INVALID', `${path} is no chain specification: it has no "id"`, {
      hint: "check the --chain of the node's arguments",
    });
  }
  return { id, relayChain: scanner.texts.get('relay_chain') ?? scanner.texts.get('relayChain') };
}

/** Collects the texts of a JSON document's outermost object. */
function createScanner(): { texts: Map<string, string>; push(text: string): boolean } {
  const texts = new Map<string, string>();
  let depth = 0;
  let inText = false;
  let escaped = false;
  let current = '';
  let key: string | undefined;
  /** The last text of the outermost level, which is a key when a colon follows. */
  let last: string | undefined;

  function structure(character: string): void {
    if (character === '{' || character === '[') depth += 1;
    else if (character === '}' || character === ']') depth -= 1;
    if (depth !== 1) return;
    if (character === ':') key = last;
    else if (character === ',' || character === '}' || character === ']') key = undefined;
    last = undefined;
  }

  function endText(): void {
    if (depth !== 1) return;
    const text = decode(current);
    if (key === undefined) last = text;
    else if (text !== undefined) texts.set(key, text);
  }

  return {
    texts,
    /** True when nothing that follows matters. */
    push(text) {
      for (const character of text) {
        if (inText) {
          if (!escaped && character === '"') {
            inText = false;
            endText();
          } else if (current.length < MAX_TEXT) current += character;
          escaped = !escaped && character === '\\';
        } else if (character === '"') {
          inText = true;
          current = '';
        } else if (/[{}[\],:]/.test(character)) {
          structure(character);
          if (key === 'genesis' && texts.has('id')) return true;
        }
      }
      return false;
    },
  };
}

function decode(raw: string): string | undefined {
  try {
    const value: unknown = JSON.parse(`"${raw}"`);
    return typeof value === 'string' ? value : undefined;
  } catch {
    // Cut, or no JSON: nothing that a chain is named by.
    return undefined;
  }
}
