/**
 * What a Substrate node's own arguments say of its databases, and where those arguments stand: in a systemd unit, or in a
 * command. Sources: polkadot-sdk `substrate/client/cli/src` (`params/shared_params.rs`, `params/database_params.rs`,
 * `params/pruning_params.rs`, `commands/run_cmd.rs`, `arg_enums.rs`, `config.rs`) and, for a parachain's node,
 * `cumulus/client/cli/src/lib.rs` and `cumulus/polkadot-omni-node/lib/src/cli.rs`.
 */
export { type ChainSpecHead, readChainSpec } from './lib/chain-spec.ts';
export {
  basePathOf,
  type ConfiguredNode,
  configuredNode,
  hostPath,
  type NodeSource,
  type NodeUser,
} from './lib/configured-node.ts';
export {
  backendOf,
  type ChainArguments,
  isTemporary,
  type NodeArguments,
  type PruningMode,
  parseNodeArguments,
  pruningMode,
} from './lib/parse-arguments.ts';
