/**
 * The import rules of the workspace, as functions of source texts, so that the test can show that each of them can
 * fail. Imports are found by pattern after comments and the inside of texts are told apart from code.
 */
export interface Source {
  /** Folder under `packages/`. */
  package: string;
  /** Path in the repository. */
  path: string;
  text: string;
}

export interface Import {
  specifier: string;
  form: 'static' | 'type' | 'dynamic';
}

/** Which packages of the workspace each package may import. Programs (snapshotter, bootstrap) never import each other. */
export const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  runtime: [],
  format: ['runtime'],
  store: ['runtime'],
  node: ['runtime'],
  transfer: ['runtime', 'format', 'store', 'node'],
  snapshotter: ['runtime', 'format', 'store', 'node', 'transfer'],
  bootstrap: ['runtime', 'format', 'store', 'node', 'transfer'],
  cli: ['runtime', 'format', 'store', 'node', 'transfer', 'snapshotter', 'bootstrap'],
};

/** Beyond this a file has more than one subject. */
export const MAX_LINES = 450;

/** Where the process may be ended. */
const MAY_EXIT = [
  /^packages\/runtime\/src\/lifecycle\.ts$/,
  /^packages\/runtime\/src\/lib\/lifecycle/,
  /^packages\/[a-z]+\/bin\//,
  /^scripts\//,
];

/** Which SDK each adapter of packages/store may name: in its own file and in lib/<adapter>-….ts. */
const ADAPTERS: Readonly<Record<string, RegExp>> = {
  s3: /^@(?:aws-sdk|smithy)\//,
  azure: /^@azure\//,
  gcs: /^@google-cloud\//,
};

/** What a cloud is asked besides its store: by its file, and lib/cloud-<cloud>-….ts, of packages/bootstrap. */
const CLOUDS: Readonly<Record<string, RegExp>> = {
  aws: /^@aws-sdk\/client-auto-scaling$/,
};

/** The code without comments, in lines that stay where they are. */
export function withoutComments(text: string): string {
  return text.replaceAll(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g,
    (token) => (token.startsWith('/') ? token.replaceAll(/[^\n]/g, ' ') : token),
  );
}

export function importsOf(text: string): Import[] {
  const code = withoutComments(text);
  const found: Import[] = [];
  const statement = /^[ \t]*(?:import|export)\s+(type\s+)?(?:[\w*{][^;'"()]*?\sfrom\s*)?['"]([^'"\n]+)['"]/gm;
  for (const [whole, type, specifier = ''] of code.matchAll(statement)) {
    // `export const x = '…'` has no `from`, and no import of a module for its effects has anything before its name.
    if (/^\s*export/.test(whole) && !/\sfrom\s*['"]/.test(whole)) continue;
    found.push({ specifier, form: type === undefined ? 'static' : 'type' });
  }
  for (const [, specifier = ''] of code.matchAll(/\bimport\(\s*['"]([^'"\n]+)['"]\s*\)/g)) {
    found.push({ specifier, form: 'dynamic' });
  }
  return found;
}

/** `@scope/name` or `name` of a bare specifier; undefined for a relative one and for what comes with Node. */
export function packageOf(specifier: string): string | undefined {
  if (specifier.startsWith('.') || specifier.startsWith('node:') || specifier.startsWith('/'))
    return undefined;
  const [scope = '', name = ''] = specifier.split('/');
  return specifier.startsWith('@') ? `${scope}/${name}` : scope;
}

/** Every breach of a rule in one file, each with the file's path. `declared`: the dependencies of the file's package. */
export function breaches(source: Source, declared: ReadonlySet<string>): string[] {
  const { path } = source;
  const found: string[] = [];
  const allowed = ALLOWED[source.package];
  if (allowed === undefined) found.push(`${path}: the package ${source.package} is not in the graph`);

  for (const { specifier, form } of importsOf(source.text)) {
    const name = packageOf(specifier);
    if (name === undefined) {
      if (/(?:^|\/)\.\.\/(?:\.\.\/)*(?:packages\/)?[a-z]+\/src\//.test(specifier)) {
        found.push(`${path}: reaches into another package by ${specifier}`);
      }
      continue;
    }
    if (!declared.has(name)) found.push(`${path}: imports ${name}, which its package.json does not declare`);
    if (name === 'presync') found.push(`${path}: imports the command`);
    if (name.startsWith('@presync/')) {
      const sibling = name.slice('@presync/'.length);
      if (!(allowed ?? []).includes(sibling))
        found.push(`${path}: ${source.package} must not import ${sibling}`);
      if (!/^@presync\/[a-z]+\/[a-z0-9-]+$/.test(specifier)) {
        found.push(`${path}: ${specifier} is no public entry point`);
      }
    }
    const adapter = Object.keys(ADAPTERS).find((key) => ADAPTERS[key]?.test(specifier));
    if (adapter !== undefined) {
      const cloud = Object.keys(CLOUDS).find((key) => CLOUDS[key]?.test(specifier));
      const place =
        cloud === undefined
          ? `^packages/store/src/(?:lib/)?${adapter}(?:-[a-z]+)*\\.ts$`
          : `^packages/bootstrap/src/lib/cloud-${cloud}(?:-[a-z]+)*\\.ts$`;
      if (!new RegExp(place).test(path)) found.push(`${path}: ${specifier} belongs in its adapter only`);
      else if (form === 'static') found.push(`${path}: ${specifier} must be loaded by import()`);
    }
    if (specifier.startsWith('@polkadot/')) {
      if (source.package !== 'node') found.push(`${path}: ${specifier} belongs in packages/node only`);
      else if (form === 'static') found.push(`${path}: ${specifier} must be loaded by import()`);
    }
  }

  if (/\bprocess\s*\.\s*(?:exit|abort|reallyExit)\s*\(/.test(withoutComments(source.text))) {
    if (!MAY_EXIT.some((form) => form.test(path))) found.push(`${path}: only the lifecycle ends the process`);
  }
  const lines = source.text.split('\n').length - 1;
  if (lines > MAX_LINES) found.push(`${path}: ${lines} lines, more than ${MAX_LINES}`);
  return found;
}
