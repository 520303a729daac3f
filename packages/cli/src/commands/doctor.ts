import { access, constants, statfs } from 'node:fs/promises';
import { readSigningKey, readTrustedKey } from '@presync/format/key-files';
import { checkGate } from '@presync/node/gate';
import { type DatabaseLayout, findDatabase, scanDatabase } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { pauseAbilities } from '@presync/node/pause';
import { connectNode } from '@presync/node/rpc';
import { ERROR_CODES, isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import { lookAtGates } from '@presync/snapshotter/look-at-gates';
import { pauseSettings } from '@presync/snapshotter/pause-settings';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { proveConditionalWrites } from '@presync/store/probe';
import { measureClockSkew } from '@presync/store/server-time';
import { openRepository } from '@presync/transfer/repository';
import type { CommandContext, CommandHandler } from '../command.ts';
import { examineArguments } from '../lib/doctor-preflight.ts';
import { clockError, describeClock } from '../lib/store-findings.ts';

interface Finding {
  check: string;
  ok: boolean;
  detail: string;
  /** What to do; null when nothing is. */
  hint: string | null;
  /** The exit code that the command would end with; 0 when the check passed. */
  exit: number;
}

const RPC_TIMEOUT_MS = 10_000;

/** Checks what the given options allow to be checked: the machine, the database, the node, the gates of a snapshot, the keys, the store. Changes nothing but probe objects. */
export const doctor: CommandHandler<'doctor'> = async (context) => {
  const { config, signal } = context;
  const findings: Finding[] = [];
  /** Adds what the work has found, or why it failed. */
  const examineAll = async (check: string, work: () => Promise<Finding[]>): Promise<void> => {
    try {
      findings.push(...(await work()));
    } catch (error) {
      if (signal.aborted) throw error;
      const known = isPresyncError(error) ? error : undefined;
      findings.push({
        check,
        ok: false,
        detail: messageOf(error),
        hint: known?.hint ?? null,
        exit: known?.exitCode ?? 1,
      });
    }
  };
  const examine: Examine = (check, work) =>
    examineAll(check, async () => [{ check, ok: true, detail: await work(), hint: null, exit: 0 }]);
  await examine('runtime', async () => `Node ${process.version} on ${process.platform} ${process.arch}`);
  await examine('state directory', async () => stateDirectory(config.stateDir));
  const { basePath } = config;
  if (basePath !== undefined) {
    let layout: DatabaseLayout | undefined;
    await examine('database', async () => {
      layout = await findDatabase({ basePath, chainId: config.chain, backend: config.backend, signal });
      const files = await scanDatabase(layout, { signal });
      const bytes = files.reduce((sum, { size }) => sum + size, 0);
      return `${layout.backend} of chain ${layout.chainId}, ${files.length} files, ${formatBytes(bytes)}`;
    });
    if (layout !== undefined) await examineDatabase(layout, examine, context);
  }
  for (const { check, verdict, message, hint, code } of await examineArguments(context)) {
    const ok = verdict !== 'refusal';
    findings.push({
      check,
      ok,
      detail: message,
      hint,
      exit: ok || code === null ? 0 : ERROR_CODES[code].exit,
    });
  }
  const { rpc } = config;
  if (rpc !== undefined) await examine('node', () => examineNode(rpc, context));
  if (basePath !== undefined) await examineAll('gates', () => examineGates(basePath, context));
  for (const file of config.signKey)
    await examine(`signing key ${file}`, async () => `key ${(await readSigningKey(file)).id}`);
  for (const key of config.trust)
    await examine('trusted key', async () => `key ${(await readTrustedKey(key)).id}`);
  const { store } = config;
  if (store !== undefined) {
    await examine('store', () => examineStore(store, context));
    await examine('clock', () => examineClock(store, context));
  }
  const worst = findings.find(({ ok }) => !ok);
  return {
    json: { ok: worst === undefined, findings },
    text: findings.flatMap(({ check, ok, detail, hint }) => [
      `${ok ? 'ok  ' : 'FAIL'}  ${check}: ${detail}`,
      ...(hint === null ? [] : [`      Try: ${hint}`]),
    ]),
    exitCode: worst?.exit ?? 0,
  };
};

async function stateDirectory(path: string): Promise<string> {
  try {
    await access(path, constants.W_OK);
    return `${path} can be written`;
  } catch {
    return `${path} is not there yet; it is made when it is needed`;
  }
}

type Examine = (check: string, work: () => Promise<string>) => Promise<void>;

async function examineDatabase(
  layout: DatabaseLayout,
  examine: Examine,
  { config, signal }: CommandContext<'doctor'>,
): Promise<void> {
  await examine('disk', async () => {
    const { bavail, bsize } = await statfs(config.viewDir ?? layout.dir);
    return `${formatBytes(bavail * bsize)} free beside the database`;
  });
  await examine('lock', async () => {
    const holder = await databaseHolder(layout, { signal });
    if (holder === undefined) return 'no node that can be seen from here has the database open: --pause none';
    return `process ${holder.pid ?? 'unknown'} has the database open: --pause signal`;
  });
  await examinePauses(layout, examine, { config, signal });
}

/** Each strategy is told; only that the chosen one cannot be used is a failure. */
async function examinePauses(
  layout: DatabaseLayout,
  examine: Examine,
  { config, signal }: Pick<CommandContext<'doctor'>, 'config' | 'signal'>,
): Promise<void> {
  const holder = await databaseHolder(layout, { signal });
  const { stateDir } = config;
  const abilities = await pauseAbilities(
    { ...pauseSettings(config), holder, databases: [layout], stateDir },
    { signal },
  );
  for (const { strategy, able, detail } of abilities) {
    await examine(`pause ${strategy}`, async () => {
      if (able) return `can be used: ${detail}`;
      if (strategy === config.pause) {
        throw new PresyncError('NODE_PAUSE_FAILED', `cannot be used: ${detail}`, {
          hint: 'choose one that can be used, with --pause',
        });
      }
      return `cannot be used: ${detail}`;
    });
  }
}

/** What a run that began now would be told. */
async function examineGates(
  basePath: string,
  { config, signal }: CommandContext<'doctor'>,
): Promise<Finding[]> {
  const { rpc, genesis, ...settings } = config;
  const gates = await lookAtGates({
    ...settings,
    basePath,
    pause: pauseSettings(config),
    rpcUrl: rpc,
    genesisHash: genesis,
    signal,
  });
  return gates.map(({ gate, state, reason, hint }) => ({
    check: `gate ${gate}`,
    ok: state !== 'shut',
    detail: reason === null ? state : `${state}: ${reason}`,
    hint,
    exit: state === 'shut' ? ERROR_CODES.GATE_SHUT.exit : 0,
  }));
}

async function examineNode(url: string, { config, signal }: CommandContext<'doctor'>): Promise<string> {
  const rpc = await connectNode(url, { timeoutMs: RPC_TIMEOUT_MS, signal });
  try {
    const { name, version } = await rpc.implementation();
    const gate = await checkGate(rpc, {
      minPeers: config.minPeers,
      maxFinalityLag: config.maxFinalityLag,
      genesisHash: config.genesis,
      signal,
    });
    const facts = `${name} ${version} on ${await rpc.chainName()}, block ${gate.head.number}, finalized ${gate.finalized.number}`;
    // With a base path each gate is told by itself.
    if (config.basePath !== undefined) return facts;
    return `${facts}; ${gate.open ? 'a snapshot may be taken' : `no snapshot would be taken: ${gate.reasons.join('; ')}`}`;
  } finally {
    await rpc.close();
  }
}

async function examineStore(url: string, { config, signal }: CommandContext<'doctor'>): Promise<string> {
  const store = await composeStore(url, { access: await readStoreAccess(config), signal });
  try {
    // Only a source node writes; an agent's identity may well be read-only.
    if (config.signKey.length > 0) await proveConditionalWrites(store, { signal });
    const repository = await openRepository(store, { signal });
    const writes = config.signKey.length > 0 ? ', conditional writes are honoured' : '';
    return `repository ${repository.id} at ${store.location}, chunks of ${formatBytes(repository.chunkSize)}${writes}`;
  } finally {
    await store.close();
  }
}

async function examineClock(url: string, { config, signal }: CommandContext<'doctor'>): Promise<string> {
  const clock = await measureClockSkew(url, { access: await readStoreAccess(config), signal });
  if (clock === undefined) return 'the store has no clock to compare with';
  if (clock.verdict === 'error') throw clockError(clock);
  return describeClock(clock);
}
