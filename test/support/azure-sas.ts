import { createHmac } from 'node:crypto';
import type { AzureServer } from './azure-server.ts';

const VERSION = '2020-12-06';

/**
 * A SAS token of the server's container with these permissions, good for an hour:
 * https://learn.microsoft.com/rest/api/storageservices/create-service-sas, "Version 2020-12-06 and later".
 */
export function containerSas(server: AzureServer, permissions: string): string {
  const expiry = `${new Date(Date.now() + 3_600_000).toISOString().slice(0, 19)}Z`;
  const signed = [
    permissions,
    '',
    expiry,
    `/blob/${server.account}/${server.container}`,
    ...['', '', ''],
    VERSION,
    'c',
    ...Array<string>(7).fill(''),
  ].join('\n');
  const sig = createHmac('sha256', Buffer.from(server.key, 'base64')).update(signed).digest('base64');
  return new URLSearchParams({ sv: VERSION, se: expiry, sr: 'c', sp: permissions, sig }).toString();
}
