import { GENERATED } from '../../packages/runtime/src/reference.ts';
import { URL_OPTIONS, type UrlOption } from '../../packages/store/src/store-url.ts';

const KINDS: readonly { form: string; about: string; options: Readonly<Record<string, UrlOption>> }[] = [
  {
    form: 's3://bucket/prefix',
    about:
      'A bucket on AWS or a server that speaks its protocol. Credentials come from the usual chain of AWS: environment, profile, web identity, container, instance role. What servers differ in is found out; [stores.md](../stores.md) says how.',
    options: URL_OPTIONS.s3,
  },
  {
    form: 'azure://account/container/prefix',
    about:
      'A container of Azure Blob Storage. Credentials: `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, or a managed or workload identity.',
    options: URL_OPTIONS.azure,
  },
  {
    form: 'gs://bucket/prefix',
    about: 'A bucket of Google Cloud Storage. Credentials: Application Default Credentials.',
    options: URL_OPTIONS.gs,
  },
  {
    form: 'https://host/prefix, peer+http://host:port',
    about:
      "A web server or CDN, or another machine's `presync serve`; read only. Credentials stand in the file of `--store-auth`.",
    options: URL_OPTIONS.http,
  },
];

/** The options of store URLs, as Markdown. */
export function storeReference(): string {
  return [
    '# Store URLs',
    '',
    GENERATED,
    '',
    'What may stand behind the `?` of a store URL, as in `s3://bucket/prefix?region=eu-central-1&sse=AES256`: each option at',
    'most once. In a value `+`, `&`, `#` and `%` are written `%2B`, `%26`, `%23` and `%25`. Credentials never belong in the',
    'URL. `file:///dir` and `memory:` have no options.',
    '',
    ...KINDS.flatMap(({ form, about, options }) => [
      `## ${form}`,
      '',
      about,
      '',
      ...Object.entries(options).map(([name, option]) => line(name, option)),
      '',
    ]),
  ].join('\n');
}

function line(name: string, { value, description, fallback }: UrlOption): string {
  return `- \`${name}\`: ${value}. ${description}${fallback === undefined ? '' : ` Default: ${fallback}.`}`;
}
