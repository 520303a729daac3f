import { stringify } from 'yaml';
import { readAsset } from './assets.ts';

/** What a new instance gets from elsewhere. */
export interface Pinned {
  kind: 'executable' | 'package';
  url: string;
  /** In lower case. */
  sha256: string;
}

export interface UserDataOptions {
  /** The agent's configuration, by option. */
  config: Readonly<Record<string, unknown>>;
  /** The node's systemd unit, whose start waits for the database; undefined where the agent starts the node as its child. */
  unit: string | undefined;
  /** Undefined when the Debian package is in the image. */
  pinned: Pinned | undefined;
}

/** A file on the instance. */
interface PlacedFile {
  path: string;
  mode: '0640' | '0644';
  content: string;
  /** Where the package has the same, when the package is there from the start. */
  packaged?: string | undefined;
}

const UNITS = '/etc/systemd/system';

/** Where an executable goes that no package brings. */
const EXECUTABLE = '/usr/local/bin/presync';

/**
 * User data in cloud-init's cloud-config format. The same input gives the same bytes, so that a launch template does not change for nothing.
 *
 * All files are placed by one script in `bootcmd`, not by `write_files`: cloud-init runs the former at each boot, before
 * ordinary services, and the latter once in an instance's life, whether it came to its end or not. The script is constant; values are its
 * arguments, which cloud-init quotes.
 */
export function renderUserData(options: UserDataOptions): string {
  const { pinned } = options;
  const start = pinned === undefined ? 'presync-bootstrap.service' : 'presync-install.service';
  const files = placedFiles(options);
  const prepare = [
    ...[
      '/bin/sh',
      '-c',
      withoutComments(readAsset('deploy/cloud-init/prepare.sh')),
      'presync-prepare',
      start,
    ],
    ...files.flatMap(({ path, mode, content, packaged = '' }) => [path, mode, content, packaged]),
  ];
  const document = {
    bootcmd: [prepare],
    // When all else is there: the node may come by other parts of the user data.
    runcmd: [['systemctl', '--no-block', 'start', start]],
    // Beside the commands of other parts, not in their place.
    merge_how: [
      { name: 'list', settings: ['append'] },
      { name: 'dict', settings: ['no_replace', 'recurse_list'] },
    ],
  };
  // cloud-init reads YAML 1.1, in which more words and numbers need quotes.
  const yaml = stringify(document, { version: '1.1', lineWidth: 0, aliasDuplicateObjects: false });
  return `#cloud-config\n# Made by "presync cloud-init render".\n${yaml}`;
}

function placedFiles({ config, unit, pinned }: UserDataOptions): PlacedFile[] {
  return [
    { path: '/etc/presync/presync.yaml', mode: '0640', content: configFile(config) },
    ...(unit === undefined ? [] : [gateOf(unit, pinned)]),
    ...(pinned?.kind === 'executable' ? [agentUnit()] : []),
    ...(pinned === undefined ? [] : installerFiles(pinned)),
  ];
}

function configFile(config: Readonly<Record<string, unknown>>): string {
  return `# Written at each boot, from the user data of this instance; change it there.\n${stringify(config, { lineWidth: 0 })}`;
}

/** The drop-in with which the node's unit waits for the database. */
function gateOf(unit: string, pinned: Pinned | undefined): PlacedFile {
  return {
    path: `${UNITS}/${unitName(unit)}.d/10-presync.conf`,
    mode: '0644',
    content: withoutComments(readAsset('systemd/node-gate.conf')),
    packaged: pinned === undefined ? '/usr/share/presync/node-gate.conf' : undefined,
  };
}

/** The packaged unit, for an executable that stands elsewhere. */
function agentUnit(): PlacedFile {
  const unit = withoutComments(readAsset('systemd/presync-bootstrap.service'));
  return {
    path: `${UNITS}/presync-bootstrap.service`,
    mode: '0644',
    content: unit.replaceAll('/usr/bin/presync', EXECUTABLE),
  };
}

function installerFiles(pinned: Pinned): PlacedFile[] {
  const asset = (path: string, name: Parameters<typeof readAsset>[0]): PlacedFile => ({
    path,
    mode: '0644',
    content: withoutComments(readAsset(name)),
  });
  return [
    { path: '/etc/presync/install.json', mode: '0644', content: `${JSON.stringify(pinned)}\n` },
    asset('/usr/local/lib/presync/install.py', 'deploy/cloud-init/install.py'),
    asset(`${UNITS}/presync-install.service`, 'deploy/cloud-init/presync-install.service'),
    asset(`${UNITS}/presync-bootstrap.service.d/10-install.conf`, 'deploy/cloud-init/after-install.conf'),
  ];
}

/** Room in user data is short; lines that are comments can be read in the repository. */
function withoutComments(text: string): string {
  return text.replaceAll(/^[ \t]*#.*\n/gm, '');
}

/** As systemctl completes it. */
function unitName(unit: string): string {
  return /\.(?:service|target|scope|slice|socket|timer)$/.test(unit) ? unit : `${unit}.service`;
}
