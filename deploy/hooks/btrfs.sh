#!/bin/sh
# A read-only btrfs snapshot, for --pause hooks. The node runs all the time.
#   btrfs.sh before|after SUBVOLUME SNAPSHOT
# SUBVOLUME is the one that holds the node's base path, SNAPSHOT a path on the same file system.
set -eu
phase=$1 subvolume=$2 snapshot=$3

remove() {
  if [ -d "$snapshot" ]; then btrfs subvolume delete "$snapshot"; fi
}

case $phase in
  before)
    # One that a machine which lost its power has left.
    remove
    btrfs subvolume snapshot -r "$subvolume" "$snapshot"
    ;;
  after) remove ;;
  *) echo "not a phase: $phase" >&2; exit 2 ;;
esac
