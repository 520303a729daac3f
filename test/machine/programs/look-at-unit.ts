/** Prints, as JSON, what is read of a node's unit, and what the preflight of a restore to a base path says of it: look-at-unit.ts UNIT BASE [UID:GID]. */
import { preflight } from '@presync/bootstrap/preflight';
import { configuredNode } from '@presync/node/node-arguments';
import { isPresyncError } from '@presync/runtime/errors';

const [unit = '', base = '', owner] = process.argv.slice(2);
const { signal } = new AbortController();
const [uid = 0, gid = 0] = (owner ?? '').split(':').map(Number);
const findings = await preflight({
  node: { unit },
  ignore: [],
  reserve: 0,
  basePath: base,
  existing: 'refuse',
  restores: true,
  owner: owner === undefined ? undefined : { uid, gid },
  subject: {
    name: 'snapshot dev/test#1',
    specId: 'dev',
    statePruning: 'archive',
    parts: [{ role: 'main', backend: 'paritydb', basePath: base, path: 'chains/dev/paritydb/full' }],
  },
  signal,
});
try {
  const { environment, ...node } = await configuredNode({ unit }, { signal });
  console.log(JSON.stringify({ node, findings }));
} catch (error) {
  console.log(JSON.stringify({ error: isPresyncError(error) ? error.code : String(error), findings }));
}
