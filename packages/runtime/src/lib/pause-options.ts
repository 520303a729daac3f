import { choice, duration, integer, pattern, text } from './option-kinds.ts';

/** How the node is held still. */
export const PAUSE_OPTIONS = {
  pause: {
    kind: choice(['none', 'signal', 'freeze', 'stop', 'docker', 'hooks']),
    description:
      'How the node is paused: none for a node that does not run, signal for SIGSTOP and SIGCONT, freeze for its cgroup, stop for its unit, docker for its container, hooks for commands.',
    default: 'none',
  },
  pidFile: {
    kind: text('FILE', 'the path of a file'),
    description: "File that holds the node's process id.",
  },
  pid: {
    kind: integer('PID', 1, 2 ** 31 - 1),
    description: "The node's process id.",
  },
  unit: {
    kind: pattern(
      'NAME',
      /^[A-Za-z0-9:_.@\\-]{1,255}$/,
      'the name of a systemd unit, such as polkadot.service',
    ),
    description: "The node's systemd unit.",
  },
  pauseBudget: {
    kind: duration('100ms', '1h'),
    description: 'The node is resumed after this long, whatever happens.',
    defaultText: '10s; 2m where the node is stopped, and for hooks',
  },
  container: {
    kind: pattern('NAME', /^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$/, 'the name or id of a container'),
    description: "The node's container, for --pause docker.",
  },
  dockerSocket: {
    kind: text('PATH', 'the path of a unix socket'),
    description: "The container engine's socket, for --pause docker.",
    default: '/var/run/docker.sock',
  },
  dockerAction: {
    kind: choice(['pause', 'stop']),
    description: 'What --pause docker does with the container; a stopped one is started again.',
    default: 'pause',
  },
  hookBefore: {
    kind: text('COMMAND', 'a command, for sh -c'),
    description:
      'Command that --pause hooks runs first, by sh -c: it holds the node still, or leaves a frozen copy.',
  },
  hookAfter: {
    kind: text('COMMAND', 'a command, for sh -c'),
    description: 'Command that undoes --hook-before. It always runs, also when that one failed.',
  },
  hookView: {
    kind: text('PATH', 'the path of a folder'),
    description:
      'Where --hook-before leaves a frozen copy of the base path, which is then read until --hook-after. The node must run again when --hook-before ends.',
  },
  hookTimeout: {
    kind: duration('1s', '6h'),
    description: 'How long each hook may take.',
    default: '2m',
  },
} as const;
