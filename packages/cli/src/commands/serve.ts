import { PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import { serve as offer } from '@presync/snapshotter/serve';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import type { CommandHandler } from '../command.ts';

export const serve: CommandHandler<'serve'> = async ({ config, log, signal, stdout, json, version }) => {
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
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'serve' }, 1);
  // The bandwidth is that of the answers; what the store gives is a copy of it.
  const { bandwidth, ...access } = await readStoreAccess(config);
  const store = await composeStore(config.store, { access, metrics: metrics.store, signal });
  const admin =
    config.adminListen === 'none'
      ? undefined
      : await startAdminServer({
          listen: config.adminListen,
          health: () => ({ ok: true }),
          ready: () => ({ ok: true }),
          metrics: registry,
          signal,
        });
  try {
    await offer({
      store,
      listen,
      tokenFile: config.serveToken,
      tls:
        serveCert === undefined || serveCertKey === undefined
          ? undefined
          : { cert: serveCert, key: serveCertKey, clientCa: serveClientCa },
      maxAnswers: config.serveAnswers,
      bandwidth,
      metrics,
      log,
      onListening: (url) => {
        if (!json) void stdout.write(`Offered at ${url}\n`);
      },
      signal,
    });
    return { json: { stopped: true }, text: [] };
  } finally {
    await admin?.close();
    await store.close();
  }
};
