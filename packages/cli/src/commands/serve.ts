import type { Manifest } from '@presync/format/manifest';
import { type CommandConfig, SERVE_OPTIONS } from '@presync/runtime/commands';
import type { LoadedConfig } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { createMetrics, createRegistry, type Metrics } from '@presync/runtime/metrics';
import { flagOf } from '@presync/runtime/options';
import { formatBytes } from '@presync/runtime/units';
import { composeView } from '@presync/snapshotter/compose';
import { type ServeOptions, serve as serveRepository } from '@presync/snapshotter/serve';
import { serveView } from '@presync/snapshotter/serve-view';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { logNotices } from '@presync/store/notices';
import type { CommandContext, CommandHandler } from '../command.ts';

/** What is the same, whatever is offered. */
type Offering = Omit<ServeOptions, 'store' | 'onListening'> & {
  metrics: Metrics;
  /** Called once, when the server listens. */
  onListening: (url: string, manifest?: Manifest) => void;
};

export const serve: CommandHandler<'serve'> = async (context) => {
  const { config, loaded, log, signal, stdout, json, version } = context;
  const { basePath, store } = config;
  refuseIdle(loaded);
  const server = serverOf(config);
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'serve' }, 1);
  let url: string | undefined;
  const admin =
    config.adminListen === 'none'
      ? undefined
      : await startAdminServer({
          listen: config.adminListen,
          health: () => ({ ok: true }),
          ready: () => ({ ok: url !== undefined, detail: { offeredAt: url ?? null } }),
          metrics: registry,
          signal,
        });
  const offering: Offering = {
    ...server,
    metrics,
    log,
    onListening: (at, manifest) => {
      url = at;
      if (!json) void stdout.write(announcement(at, manifest));
    },
    signal,
  };
  try {
    if (basePath !== undefined) await offerDatabase({ ...config, basePath }, offering, context);
    else if (store !== undefined) await offerStore({ ...config, store }, offering);
    return { json: { stopped: true }, text: [] };
  } finally {
    await admin?.close();
  }
};

async function offerStore(
  config: CommandConfig<'serve'> & { store: string },
  offering: Offering,
): Promise<void> {
  // The bandwidth is that of the answers; what the store gives is a copy of it.
  const access = { ...(await readStoreAccess(config)), bandwidth: undefined };
  const { metrics, log, signal } = offering;
  const store = await composeStore(config.store, {
    access,
    metrics: metrics.store,
    onNotice: logNotices(log),
    signal,
  });
  try {
    await serveRepository({ ...offering, store });
  } finally {
    await store.close();
  }
}

async function offerDatabase(
  config: CommandConfig<'serve'> & { basePath: string },
  offering: Offering,
  { log, progress, signal }: CommandContext<'serve'>,
): Promise<void> {
  await serveView({ ...(await composeView(config, { log, progress, signal })), ...offering });
}

/** Where and to whom is offered. */
function serverOf(
  config: CommandConfig<'serve'>,
): Pick<Offering, 'listen' | 'tokenFile' | 'tls' | 'maxAnswers' | 'bandwidth'> {
  const { listen, serveCert, serveCertKey, serveClientCa } = config;
  if (listen === 'none') {
    throw new PresyncError('CONFIG_INVALID', 'nothing can be offered without an address', {
      hint: 'give --listen HOST:PORT',
    });
  }
  if ((serveCert === undefined) !== (serveCertKey === undefined)) {
    throw new PresyncError('CONFIG_INVALID', 'a certificate needs its private key, and the other way round', {
      hint: 'give both --serve-cert and --serve-cert-key',
    });
  }
  if (serveClientCa !== undefined && serveCert === undefined) {
    throw new PresyncError('CONFIG_INVALID', 'clients show certificates over TLS only', {
      hint: 'give --serve-cert and --serve-cert-key too',
    });
  }
  return {
    listen,
    tokenFile: config.serveToken,
    tls:
      serveCert === undefined || serveCertKey === undefined
        ? undefined
        : { cert: serveCert, key: serveCertKey, clientCa: serveClientCa },
    maxAnswers: config.serveAnswers,
    bandwidth: config.bandwidth,
  };
}

/** An option on the command line that would do nothing is a misunderstanding; in a file that several commands share it is none. */
function refuseIdle({ explained, values }: LoadedConfig<'serve'>): void {
  const [used, other] =
    values.basePath === undefined ? (['store', 'basePath'] as const) : (['basePath', 'store'] as const);
  const idle = explained.find(
    ({ name, source }) => source.kind === 'command line' && SERVE_OPTIONS[other].includes(name),
  );
  if (idle === undefined) return;
  throw new PresyncError(
    'CONFIG_INVALID',
    `${flagOf(idle.name)} means nothing with ${flagOf(used)}: it goes with ${flagOf(other)}`,
    { hint: `leave it out, or give ${flagOf(other)} in place of ${flagOf(used)}` },
  );
}

function announcement(url: string, manifest: Manifest | undefined): string {
  if (manifest === undefined) return `Offered at ${url}\n`;
  const { channel, sequence, totals, chain } = manifest;
  const holds = chain.anchor === null ? '' : `, holds block ${chain.anchor.number} ${chain.anchor.hash}`;
  return `Offered at ${url}\n  ${channel}#${sequence}: ${totals.files} files, ${formatBytes(totals.bytes)}${holds}\n`;
}
