/** A chain that nodes know by a name of their own. */
export interface KnownChain {
  specId: string;
  genesisHash?: string | undefined;
}

/**
 * What `--chain NAME` means to the polkadot executable, where name and spec id differ or the genesis is well known (sdk
 * `polkadot/cli/src/command.rs`, `polkadot/node/service/chain-specs`). Names that are not here may be spec ids, or known to the node only.
 */
export const KNOWN_CHAINS: Readonly<Record<string, KnownChain>> = {
  polkadot: {
    specId: 'polkadot',
    genesisHash: '0x91b171bb158e2d3848fa23a9f1c25182fb8e20313b2c1eb49219da7a70ce90c3',
  },
  kusama: {
    specId: 'ksmcc3',
    genesisHash: '0xb0a8d493285c2df73290dfb7e61f870f17b41801197a149ca93654499ea3dafe',
  },
  westend: {
    specId: 'westend2',
    genesisHash: '0xe143f23803ac50e8f6f8e62695d1ce9e4e1d68aa36c1cd2cfd15340213f3423e',
  },
  paseo: {
    specId: 'paseo',
    genesisHash: '0x77afd6190f1554ad45fd0d31aee62aacc33c6db0ea801129acb813f913e0764f',
  },
  rococo: { specId: 'rococo_v2_2' },
};
