/** The checks that compare the node's own arguments with the database. */
import { access } from 'node:fs/promises';
import { basename } from 'node:path';
import {
  backendOf,
  type ChainArguments,
  type ConfiguredNode,
  hostPath,
  type PruningMode,
  pruningMode,
  readChainSpec,
} from '@presync/node/node-arguments';
import { messageOf, throwIfAborted } from '@presync/runtime/errors';
import { type Finding, pass, refusal, warning } from './finding.ts';
import { KNOWN_CHAINS } from './known-chains.ts';
import {
  argumentsOf,
  chainParts,
  flagFor,
  type PreflightContext,
  type SubjectPart,
} from './preflight-context.ts';

export function checkArguments({ node }: PreflightContext): Finding[] {
  if (node === undefined) {
    return [
      pass(
        'arguments',
        "no unit and no command of the node is given (--unit, --node-command), so that nothing is compared with the node's own arguments",
      ),
    ];
  }
  if (node.obstacle === undefined) return [pass('arguments', `${node.name} tells the node's arguments`)];
  const message =
    node.arguments === undefined
      ? `it cannot be told how ${node.name} starts the node: ${node.obstacle}`
      : `${node.name} may give the node more arguments than can be seen: ${node.obstacle}`;
  return [
    warning(
      'arguments',
      message,
      "check base path, chain, database and pruning of the node by yourself, or start the node's executable directly",
    ),
  ];
}

export function checkGenesis({ subject, node }: PreflightContext): Finding[] {
  const { genesisHash, name } = subject;
  if (genesisHash === undefined) return [];
  const chain = node?.arguments?.chain;
  const known = chain === undefined ? undefined : KNOWN_CHAINS[chain];
  if (known?.genesisHash !== undefined && known.genesisHash !== genesisHash) {
    return [
      refusal(
        'genesis',
        'TARGET_CHAIN',
        `${name} is of the chain with genesis ${genesisHash}, and ${node?.name} runs --chain ${chain}, whose genesis is ${known.genesisHash}`,
        'choose a snapshot of that chain with --channel, and find out who publishes this one',
      ),
    ];
  }
  if (subject.genesisDemanded === true) return [pass('genesis', `genesis ${genesisHash}, as demanded`)];
  if (known?.genesisHash !== undefined)
    return [pass('genesis', `genesis ${genesisHash}, as that of --chain ${chain} is known to be`)];
  return [pass('genesis', `genesis ${genesisHash}; none is demanded with --genesis`)];
}

export async function checkChain(context: PreflightContext): Promise<Finding[]> {
  const { node, subject } = context;
  if (node?.arguments === undefined) return [];
  const findings: Finding[] = [];
  const spec = await expectedChain(node, node.arguments, context.signal);
  for (const part of chainParts(subject)) {
    const isRelay = part.role === 'relay';
    const wanted = isRelay ? (part.path.split('/').at(-3) ?? '') : subject.specId;
    const expected = isRelay ? await expectedRelay(node, spec, context.signal) : spec;
    findings.push(...compareChain(context, part, wanted, expected));
  }
  return findings;
}

/** The chain that a node runs: its spec id, where that can be told. */
interface ExpectedChain {
  /** What tells of it: `--chain kusama`. */
  by: string;
  id: string | undefined;
  /** Of a name that only the node knows what it stands for. */
  name?: string | undefined;
  relayChain?: string | undefined;
  trouble?: string | undefined;
}

function compareChain(
  { node, subject }: PreflightContext,
  part: SubjectPart,
  wanted: string,
  expected: ExpectedChain | undefined,
): Finding[] {
  if (expected === undefined || node === undefined) return [];
  const { by, id, name, trouble } = expected;
  const what = part.role === 'relay' ? `the relay chain of ${subject.name}` : subject.name;
  if (id === wanted || (id === undefined && name === wanted))
    return [pass('chain', `${node.name} runs chain ${wanted} (${by})`)];
  if (id !== undefined) {
    return [
      refusal(
        'chain',
        'TARGET_CHAIN',
        `${node.name} runs chain ${id} (${by}) and looks for chains/${id}, and ${what} is of chain ${wanted}`,
        `choose a snapshot of ${id} with --channel, or change ${flagFor(part, '--chain')} ${node.where}`,
      ),
    ];
  }
  return [
    warning(
      'chain',
      trouble ?? `only the node knows whether its ${by} is chain ${wanted}, which ${what} is of`,
      `make sure that the node looks for its database in chains/${wanted}`,
    ),
  ];
}

/** polkadot takes the chain from its own name when it is told none (sdk `polkadot/cli/src/command.rs`, `load_spec`). */
const NAMED_AFTER_CHAIN = /^(polkadot|kusama|westend|rococo)$/;

async function expectedChain(
  node: ConfiguredNode,
  own: ChainArguments,
  signal: AbortSignal,
): Promise<ExpectedChain | undefined> {
  if (own.chain !== undefined) return chainNamed(node, own.chain, signal);
  if (node.obstacle !== undefined) return undefined;
  if (own.dev) return { by: '--dev', id: undefined, name: 'dev' };
  const name = NAMED_AFTER_CHAIN.exec(basename(node.executable ?? ''))?.[1];
  if (name === undefined) return undefined;
  return { by: `${name} without --chain`, id: KNOWN_CHAINS[name]?.specId };
}

async function chainNamed(node: ConfiguredNode, chain: string, signal: AbortSignal): Promise<ExpectedChain> {
  const by = `--chain ${chain}`;
  const known = KNOWN_CHAINS[chain];
  if (known !== undefined) return { by, id: known.specId };
  const path = hostPath(node, chain);
  if (path === undefined) return { by, id: undefined, name: chain };
  try {
    await access(path);
  } catch {
    const looksLikePath = chain.includes('/') || chain.endsWith('.json');
    return {
      by,
      id: undefined,
      name: chain,
      trouble: looksLikePath ? `${path}, which ${node.name} names as its --chain, cannot be read` : undefined,
    };
  }
  try {
    const { id, relayChain } = await readChainSpec(path, { signal });
    return { by: `"id" in ${path}`, id, relayChain };
  } catch (error) {
    throwIfAborted(signal);
    return { by, id: undefined, trouble: messageOf(error) };
  }
}

async function expectedRelay(
  node: ConfiguredNode,
  own: ExpectedChain | undefined,
  signal: AbortSignal,
): Promise<ExpectedChain | undefined> {
  const chain = node.arguments?.relay?.chain;
  if (chain !== undefined) return chainNamed(node, chain, signal);
  // A name that is not known here says nothing: the node has a specification of its own for it.
  const known = own?.relayChain === undefined ? undefined : KNOWN_CHAINS[own.relayChain];
  if (known === undefined) return undefined;
  return { by: `"relay_chain" of ${own?.by}`, id: known.specId };
}

export function checkBackend({ node, subject }: PreflightContext): Finding[] {
  return chainParts(subject).flatMap((part) => {
    const own = argumentsOf(node, part);
    if (node === undefined || own === undefined) return [];
    const opens = backendOf(own);
    const given =
      own.database === undefined ? 'no --database, which means rocksdb' : `--database ${own.database}`;
    const what = part.role === 'relay' ? `the relay chain's database in ${subject.name}` : subject.name;
    const where = part.role === 'relay' ? ', for its relay chain' : '';
    if (opens === part.backend || opens === 'auto')
      return [pass('backend', `${node.name} has ${given}${where}, and ${what} is ${part.backend}`)];
    const hint = `put ${flagFor(part, `--database ${part.backend}`)} ${node.where}, or choose a channel of ${opens ?? 'another backend'} with --channel`;
    const message = `${node.name} has ${given}${where}, and ${what} is a ${part.backend} database, which the node would not open`;
    const unsure = opens === undefined || (own.database === undefined && node.obstacle !== undefined);
    return [unsure ? warning('backend', message, hint) : refusal('backend', 'TARGET_BACKEND', message, hint)];
  });
}

/**
 * A node takes the state pruning mode that is stored in the database when it is given none, and refuses to start when it is given another kind; the number
 * of blocks may change (sdk `substrate/client/state-db/src/lib.rs`, `choose_pruning_mode`). Blocks pruning is not stored, and always may change.
 */
export function checkPruning({ node, subject, restores }: PreflightContext): Finding[] {
  const own = node?.arguments;
  if (!restores || node === undefined || own === undefined) return [];
  return [...statePruning(node, own, subject), ...blocksPruning(node, own, subject)];
}

function statePruning(
  node: ConfiguredNode,
  own: ChainArguments,
  subject: PreflightContext['subject'],
): Finding[] {
  const { name } = subject;
  const given = own.statePruning;
  if (given === undefined) {
    const of = subject.statePruning === undefined ? '' : `, ${subject.statePruning}`;
    return [pass('pruning', `${node.name} has no --state-pruning, and takes the mode of the database${of}`)];
  }
  const wanted = pruningMode(given);
  const stored = subject.statePruning === undefined ? undefined : pruningMode(subject.statePruning);
  if (stored === undefined || wanted === undefined) {
    return [
      warning(
        'pruning',
        `${node.name} has --state-pruning ${given}, and ${name} does not tell the mode that it was made with; a node with another one does not start`,
        `leave --state-pruning out ${node.where}: the node then takes the mode of the database`,
      ),
    ];
  }
  if (kindOf(wanted) !== kindOf(stored)) {
    return [
      refusal(
        'pruning',
        'TARGET_PRUNING',
        `${node.name} has --state-pruning ${given}, and ${name} was made with ${subject.statePruning}: the node would not start`,
        `put --state-pruning ${subject.statePruning} ${node.where}, or leave it out, or choose a channel with that mode`,
      ),
    ];
  }
  if (typeof wanted === 'number' && typeof stored === 'number' && wanted > stored) {
    return [
      warning(
        'pruning',
        `${node.name} keeps the states of ${wanted} blocks (--state-pruning), and ${name} has those of ${stored}; it fills up while the node runs`,
        null,
      ),
    ];
  }
  return [
    pass(
      'pruning',
      `${node.name} has --state-pruning ${given}, and ${name} was made with ${subject.statePruning}`,
    ),
  ];
}

function kindOf(mode: PruningMode): string {
  return typeof mode === 'number' ? 'number' : mode;
}

/** What a node does that is given no `--blocks-pruning` (sdk `client/cli/src/params/pruning_params.rs`). */
const BLOCKS_DEFAULT = 'archive-canonical';

function blocksPruning(
  node: ConfiguredNode,
  own: ChainArguments,
  { name, blocksPruning: stored }: PreflightContext['subject'],
): Finding[] {
  if (stored === undefined || (own.blocksPruning === undefined && node.obstacle !== undefined)) return [];
  const given = own.blocksPruning ?? BLOCKS_DEFAULT;
  const [keeps, had] = [pruningMode(given), pruningMode(stored)];
  const how =
    own.blocksPruning === undefined
      ? `no --blocks-pruning, which means ${given}`
      : `--blocks-pruning ${given}`;
  if (typeof keeps === 'number' && typeof had !== 'number') {
    return [
      warning(
        'pruning',
        `${node.name} has ${how}, and removes the older blocks that ${name} brings`,
        `put --blocks-pruning ${stored} ${node.where} to keep them`,
      ),
    ];
  }
  if (typeof had === 'number' && (typeof keeps !== 'number' || keeps > had)) {
    return [
      warning(
        'pruning',
        `${node.name} has ${how}, and ${name} has only the last ${had} blocks: older ones stay missing`,
        'choose a channel that keeps all blocks, if the node is to answer for old ones',
      ),
    ];
  }
  return [];
}
