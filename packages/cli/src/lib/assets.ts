import { readFileSync } from 'node:fs';
import { getAsset, isSea } from 'node:sea';

/** Files of the repository that the command gives to other machines, by their path in it; the executable holds a copy of each. */
export const TEXT_ASSETS = [
  'deploy/cloud-init/after-install.conf',
  'deploy/cloud-init/install.py',
  'deploy/cloud-init/prepare.sh',
  'deploy/cloud-init/presync-install.service',
  'systemd/node-gate.conf',
  'systemd/presync-bootstrap.service',
] as const;

export function readAsset(path: (typeof TEXT_ASSETS)[number]): string {
  return isSea()
    ? getAsset(path, 'utf8')
    : readFileSync(new URL(`../../../../${path}`, import.meta.url), 'utf8');
}
