import { readFile, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { errnoOf, messageOf, PresyncError } from '../errors.ts';
import { redactText } from '../redact.ts';

/** More than any configuration needs; keeps a wrong path (a device, a database) from being read whole. */
const MAX_CONFIG_BYTES = 1024 * 1024;

/**
 * Reads a configuration file into its top-level keys. Undefined when there is none and `mayBeAbsent`.
 *
 * @throws PresyncError CONFIG_UNREADABLE
 */
export async function readConfigFile(
  path: string,
  mayBeAbsent: boolean,
): Promise<Map<string, unknown> | undefined> {
  let content: string;
  try {
    const info = await stat(path);
    if (!info.isFile()) throw unreadable(path, 'it is not a file');
    if (info.size > MAX_CONFIG_BYTES) throw unreadable(path, `it is larger than ${MAX_CONFIG_BYTES} bytes`);
    content = (await readFile(path, 'utf8')).replace(/^\uFEFF/, '');
  } catch (error) {
    if (mayBeAbsent && errnoOf(error) === 'ENOENT') return undefined;
    if (error instanceof PresyncError) throw error;
    throw unreadable(path, messageOf(error), error);
  }
  const document = await parse(path, content);
  // An empty YAML file, or one of comments only, says nothing.
  if (document === null || document === undefined) return new Map();
  if (typeof document !== 'object' || Array.isArray(document)) {
    throw unreadable(path, 'it does not hold options at its top level');
  }
  return new Map(Object.entries(document));
}

async function parse(path: string, content: string): Promise<unknown> {
  try {
    switch (extname(path).toLowerCase()) {
      case '.yaml':
      case '.yml': {
        const { parse: parseYaml } = await import('yaml');
        return parseYaml(content, { prettyErrors: true, maxAliasCount: 20 });
      }
      case '.json':
        return JSON.parse(content);
      case '.toml': {
        const { parse: parseToml } = await import('smol-toml');
        return parseToml(content);
      }
    }
  } catch (error) {
    // The first line says what and where; the rest quotes the file, which may hold what must not be printed.
    throw unreadable(path, redactText(messageOf(error).split('\n')[0] ?? ''), error);
  }
  throw unreadable(path, 'its name ends in none of .yaml, .yml, .json and .toml');
}

function unreadable(path: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('CONFIG_UNREADABLE', `cannot read the configuration file ${path}: ${why}`, {
    cause,
    hint: 'look at the file, or name another one with --config',
  });
}
