#!/bin/sh
# A ZFS snapshot, for --pause hooks. The node runs all the time.
#   zfs.sh before|after DATASET
# DATASET is the one that holds the node's base path. ZFS shows the snapshot at <mountpoint>/.zfs/snapshot/presync:
# that, or the base path within it, is what --hook-view names.
set -eu
phase=$1 dataset=$2
name=$dataset@presync

remove() {
  if zfs list -H -t snapshot -o name "$name" >/dev/null 2>&1; then zfs destroy "$name"; fi
}

case $phase in
  before)
    remove
    zfs snapshot "$name"
    ;;
  after) remove ;;
  *) echo "not a phase: $phase" >&2; exit 2 ;;
esac
