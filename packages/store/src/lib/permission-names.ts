import type { StoreUrl } from '../store-url.ts';

/** What a store may be asked to do. */
export type Permission = 'get' | 'list' | 'put' | 'conditional put' | 'replace' | 'delete';

/** A permission in the words of the store's kind. */
export interface PermissionName {
  /** One or the other of these is what it takes. */
  names: readonly string[];
  /** What to do when it is missing, in the imperative. */
  grant: string;
}

/** The parts of presync that cannot do without it. */
export const NEEDED_BY: Readonly<Record<Permission, readonly string[]>> = {
  get: ['snapshotter', 'restore', 'prune'],
  list: ['snapshotter', 'restore without --channel', 'prune'],
  put: ['snapshotter', 'prune'],
  'conditional put': ['snapshotter', 'prune'],
  replace: ['snapshotter', 'prune'],
  delete: ['snapshotter', 'prune'],
};

/** What a machine that only restores needs. */
export const READER_PERMISSIONS: readonly Permission[] = ['get', 'list'];

/** What a source node needs. */
export const WRITER_PERMISSIONS: readonly Permission[] = [
  'get',
  'list',
  'put',
  'conditional put',
  'replace',
  'delete',
];

export function permissionName(url: StoreUrl, permission: Permission): PermissionName {
  switch (url.kind) {
    case 's3':
      return s3Name(url.bucket, url.prefix, permission);
    case 'azure':
      return azureName(url.container, permission);
    case 'gcs':
      return gcsName(url.bucket, permission);
    case 'file':
      return fileName(url.dir, permission);
    case 'http':
      return {
        names: [permission === 'list' ? 'GET of the listing' : 'GET'],
        grant: `have the server let this machine read, or give its credentials for this server with --store-auth${url.peer ? ' (the token of --serve-token there)' : '; a bucket without listing rights answers 403 for absent objects too'}`,
      };
    case 'memory':
      return { names: [permission], grant: 'nothing: a memory: store allows everything' };
  }
}

/** https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html: objects by GetObject, PutObject, DeleteObject, listings by ListBucket. */
function s3Name(bucket: string, prefix: string, permission: Permission): PermissionName {
  const action = {
    get: 's3:GetObject',
    list: 's3:ListBucket',
    put: 's3:PutObject',
    'conditional put': 's3:PutObject',
    replace: 's3:PutObject',
    delete: 's3:DeleteObject',
  }[permission];
  const resource =
    permission === 'list'
      ? `arn:aws:s3:::${bucket}`
      : `arn:aws:s3:::${bucket}/${prefix === '' ? '' : `${prefix}/`}*`;
  return {
    names: [action],
    grant: `allow ${action} on ${resource} in the policy of the role, user or bucket`,
  };
}

const BLOBS = 'Microsoft.Storage/storageAccounts/blobServices/containers/blobs';

/**
 * Data actions: https://learn.microsoft.com/rest/api/storageservices/authorize-with-azure-active-directory; List Blobs needs the same as Get Blob.
 * Letters: https://learn.microsoft.com/rest/api/storageservices/create-service-sas; w creates and replaces, c only creates.
 */
function azureName(container: string, permission: Permission): PermissionName {
  const [action, letter] = (
    {
      get: ['read', 'r'],
      list: ['read', 'l'],
      put: ['write', 'w'],
      'conditional put': ['write', 'w'],
      replace: ['write', 'w'],
      delete: ['delete', 'd'],
    } as const
  )[permission];
  const role = action === 'read' ? 'Reader' : 'Contributor';
  return {
    names: [`SAS permission ${letter}`, `${BLOBS}/${action}`],
    grant: `make a SAS token of the container ${container} with the permission ${letter}, or give the identity the role Storage Blob Data ${role} on it`,
  };
}

/** https://cloud.google.com/storage/docs/access-control/iam-json: an insert that replaces an object needs delete, too. */
function gcsName(bucket: string, permission: Permission): PermissionName {
  const name = {
    get: 'storage.objects.get',
    list: 'storage.objects.list',
    put: 'storage.objects.create',
    'conditional put': 'storage.objects.create',
    replace: 'storage.objects.delete',
    delete: 'storage.objects.delete',
  }[permission];
  const role = permission === 'get' || permission === 'list' ? 'objectViewer' : 'objectUser';
  return {
    names: [name],
    grant: `grant ${name} on the bucket ${bucket}, as roles/storage.${role} does`,
  };
}

function fileName(dir: string, permission: Permission): PermissionName {
  const user = process.getuid === undefined ? 'this user' : `the user ${process.getuid()}`;
  const mode = {
    get: 'r on the files and x on the folders',
    list: 'r and x on the folders',
    put: 'w and x on the folders',
    'conditional put': 'w and x on the folders',
    replace: 'w and x on the folders',
    delete: 'w and x on the folders',
  }[permission];
  return { names: [mode], grant: `give ${user} ${mode} of ${dir} (chown, chmod or setfacl)` };
}
