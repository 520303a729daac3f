import type { CommandName } from '@presync/runtime/commands';
import type { CommandHandler } from './command.ts';

/** Each command's work, loaded when the command is given: what one needs must not slow the others down. */
export type Handlers = { readonly [C in CommandName]?: () => Promise<CommandHandler<C>> };

export const HANDLERS: Handlers = {
  snapshot: async () => (await import('./commands/snapshot.ts')).snapshot,
  snapshotter: async () => (await import('./commands/snapshotter.ts')).snapshotter,
  status: async () => (await import('./commands/status.ts')).status,
  restore: async () => (await import('./commands/restore.ts')).restore,
  bootstrap: async () => (await import('./commands/bootstrap.ts')).bootstrap,
  export: async () => (await import('./commands/export.ts')).exportArchive,
  serve: async () => (await import('./commands/serve.ts')).serve,
  resume: async () => (await import('./commands/resume.ts')).resume,
  list: async () => (await import('./commands/list.ts')).list,
  show: async () => (await import('./commands/show.ts')).show,
  verify: async () => (await import('./commands/verify.ts')).verify,
  prune: async () => (await import('./commands/prune.ts')).prune,
  pin: async () => (await import('./commands/pin.ts')).pin,
  'store check': async () => (await import('./commands/store-check.ts')).storeCheck,
  doctor: async () => (await import('./commands/doctor.ts')).doctor,
  'keys new': async () => (await import('./commands/keys.ts')).keysNew,
  'keys public': async () => (await import('./commands/keys.ts')).keysPublic,
  'cloud-init render': async () => (await import('./commands/cloud-init.ts')).cloudInitRender,
  'config print': async () => (await import('./commands/config.ts')).configPrint,
  'config check': async () => (await import('./commands/config.ts')).configCheck,
  'config schema': async () => (await import('./commands/config.ts')).configSchemaCommand,
  'config reference': async () => (await import('./commands/config.ts')).configReferenceCommand,
};
