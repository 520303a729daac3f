import { delimiter, join } from 'node:path';
import { S3_ACCESS_KEY, S3_BUCKET, S3_SECRET_KEY } from './s3-server.ts';

export type Arrangement = 'throttled' | 'loopback' | 'file';

/** Where one competitor works. Its scripts see these as environment variables, named in `environmentOf`. */
export interface Place {
  arrangement: Arrangement;
  /** Base path of the source node. */
  source: string;
  /** Base path that is restored to. */
  target: string;
  /** Folder of the file store, for the arrangement `file`. */
  store: string;
  /** What the competitor keeps on the source machine, and apart from it on the target machine. */
  state: string;
  /** URL of the S3 server, through the proxy or not. */
  endpoint: string;
  /** Key prefix that nobody else uses. */
  prefix: string;
}

/** One way to move a tree, as bash scripts that the report prints as they are. */
export interface Competitor {
  name: string;
  /** Prints the version, on one line. */
  version: string;
  /** Made once before the first snapshot, not measured. */
  prepare?: ((arrangement: Arrangement) => string) | undefined;
  snapshot(arrangement: Arrangement): string;
  /** To an empty target. */
  restore(arrangement: Arrangement): string;
  /** The newer snapshot to the target that holds the older one. */
  update(arrangement: Arrangement): string;
}

const OBJECT = '$BUCKET/$PREFIX/full.tar.zst';
const RCLONE_S3 = '--s3-no-check-bucket --s3-chunk-size 16M --s3-upload-concurrency 4';
const RCLONE = '--transfers 16 --checkers 16 --multi-thread-streams 16 --multi-thread-cutoff 32M';
const CURL =
  'curl -sSf --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -H "x-amz-content-sha256: UNSIGNED-PAYLOAD"';

/** One archive, one stream: what most operators do. GNU tar keeps holes (-S). */
const tar: Competitor = {
  name: 'tar | zstd',
  version:
    'echo "$(tar --version | head -n 1), $(zstd --version), $(curl --version | head -n 1 | cut -d" " -f1,2)"',
  snapshot: (arrangement) =>
    arrangement === 'file'
      ? 'tar -C "$SOURCE" -cSf - chains | zstd -3 -T0 -q -f -o "$STORE/full.tar.zst"'
      : `tar -C "$SOURCE" -cSf - chains | zstd -3 -T0 -q | rclone rcat --s3-no-check-bucket --s3-chunk-size 16M --s3-upload-concurrency 16 "bench:${OBJECT}"`,
  restore: (arrangement) =>
    arrangement === 'file'
      ? 'zstd -dcq "$STORE/full.tar.zst" | tar -C "$TARGET" -xf -'
      : `${CURL} "$ENDPOINT/${OBJECT}" | zstd -dcq | tar -C "$TARGET" -xf -`,
  update: (arrangement) => `rm -rf "$TARGET/chains"; ${tar.restore(arrangement)}`,
};

const rclonePlace = (arrangement: Arrangement): string =>
  arrangement === 'file' ? '"$STORE/$PREFIX"' : '"bench:$BUCKET/$PREFIX"';

/** The live tree, file by file, not compressed. `sync` carries over what size and time tell to be new. */
const rclone: Competitor = {
  name: 'rclone',
  version: 'rclone version | head -n 1',
  snapshot: (arrangement) => `rclone sync -q ${RCLONE} ${RCLONE_S3} "$SOURCE" ${rclonePlace(arrangement)}`,
  restore: (arrangement) => `rclone copy -q ${RCLONE} ${RCLONE_S3} ${rclonePlace(arrangement)} "$TARGET"`,
  update: (arrangement) => `rclone sync -q ${RCLONE} ${RCLONE_S3} ${rclonePlace(arrangement)} "$TARGET"`,
};

const resticRepository = (arrangement: Arrangement): string =>
  arrangement === 'file'
    ? '-r "$STORE/$PREFIX" -o local.connections=16'
    : '-r "s3:$ENDPOINT/$BUCKET/$PREFIX" -o s3.connections=16';

/** Content-defined chunks, encrypted, packed; the target machine starts without a cache. */
const restic: Competitor = {
  name: 'restic',
  version: 'restic version',
  prepare: (arrangement) => `restic ${resticRepository(arrangement)} -q init`,
  snapshot: (arrangement) =>
    `cd "$SOURCE"; restic ${resticRepository(arrangement)} --cache-dir "$STATE/source" -q backup --compression auto chains`,
  restore: (arrangement) =>
    `restic ${resticRepository(arrangement)} --cache-dir "$STATE/target" -q restore latest --target "$TARGET"`,
  // A restore leaves what is no longer in the snapshot, and this version rewrites every file in any case.
  update: (arrangement) => `rm -rf "$TARGET/chains"; ${restic.restore(arrangement)}`,
};

const presyncStore = (arrangement: Arrangement): string =>
  arrangement === 'file'
    ? '"file://$STORE/$PREFIX"'
    : '"s3://$BUCKET/$PREFIX?endpoint=$ENDPOINT&pathStyle=1&region=us-east-1"';

const presync: Competitor = {
  name: 'presync',
  version: 'presync --version',
  prepare: () =>
    'presync keys new --out "$STATE/key.pem" > "$STATE/key.id"; presync keys public "$STATE/key.pem" > "$STATE/key.pub"',
  snapshot: (arrangement) =>
    `presync snapshot --base-path "$SOURCE" --store ${presyncStore(arrangement)} --channel "$CHANNEL" --pause none --genesis "$GENESIS" --sign-key "$STATE/key.pem" --state-dir "$STATE/source" --view-dir "$STATE/view" --quiet`,
  restore: (arrangement) =>
    `presync restore --store ${presyncStore(arrangement)} --channel "$CHANNEL" --base-path "$TARGET" --trust "$STATE/key.pub" --state-dir "$STATE/target" --quiet`,
  update: (arrangement) => `${presync.restore(arrangement)} --existing reuse --yes`,
};

/** In the order in which the report lists them; ratios are against the first. */
export const COMPETITORS: readonly Competitor[] = [presync, tar, rclone, restic];

/** Nothing of the caller's environment but the path (where `home/bin/presync` comes first): proxies, credentials and configuration files change results. */
export function environmentOf(place: Place, kind: string, home: string): Record<string, string> {
  return {
    PATH: [join(home, 'bin'), process.env.PATH ?? ''].join(delimiter),
    HOME: home,
    TMPDIR: home,
    LC_ALL: 'C',
    SOURCE: place.source,
    TARGET: place.target,
    STORE: place.store,
    STATE: place.state,
    ENDPOINT: place.endpoint,
    PREFIX: place.prefix,
    BUCKET: S3_BUCKET,
    CHANNEL: `bench/${kind}`,
    GENESIS: `0x${'be'.repeat(32)}`,
    AWS_ACCESS_KEY_ID: S3_ACCESS_KEY,
    AWS_SECRET_ACCESS_KEY: S3_SECRET_KEY,
    AWS_REGION: 'us-east-1',
    AWS_DEFAULT_REGION: 'us-east-1',
    AWS_EC2_METADATA_DISABLED: 'true',
    RESTIC_PASSWORD: 'bench',
    RCLONE_CONFIG: '/dev/null',
    RCLONE_CONFIG_BENCH_TYPE: 's3',
    RCLONE_CONFIG_BENCH_PROVIDER: 'Other',
    RCLONE_CONFIG_BENCH_ENDPOINT: place.endpoint,
    RCLONE_CONFIG_BENCH_ACCESS_KEY_ID: S3_ACCESS_KEY,
    RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY: S3_SECRET_KEY,
    RCLONE_CONFIG_BENCH_REGION: 'us-east-1',
  };
}
