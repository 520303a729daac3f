#!/bin/sh
# An LVM snapshot, for --pause hooks. The node runs all the time.
#   lvm.sh before|after VG/LV SIZE MOUNTPOINT
# VG/LV holds the node's base path. SIZE is the room for what is written while presync reads, such as 20G: a snapshot that
# overflows becomes unreadable, and presync's run fails. MOUNTPOINT is made when it is not there.
set -eu
phase=$1 volume=$2 size=$3 mountpoint=$4
group=${volume%%/*}
snapshot=$group/presync_snapshot

remove() {
  if mountpoint -q "$mountpoint"; then umount "$mountpoint"; fi
  if lvs "$snapshot" >/dev/null 2>&1; then lvremove --yes "$snapshot"; fi
}

case $phase in
  before)
    remove
    # Without a size for a thin volume, whose snapshots share its pool.
    if [ "$(lvs --noheadings -o segtype "$volume" | tr -d ' ')" = thin ]; then
      lvcreate --snapshot --name presync_snapshot --setactivationskip n "$volume"
    else
      lvcreate --snapshot --name presync_snapshot --size "$size" "$volume"
    fi
    mkdir -p "$mountpoint"
    device=/dev/$snapshot
    # Not read-only at once: what its journal holds must be taken over first.
    case $(blkid -o value -s TYPE "$device") in
      # Two copies of an xfs have the same UUID, which it refuses otherwise.
      xfs) mount -o nouuid "$device" "$mountpoint" ;;
      *) mount "$device" "$mountpoint" ;;
    esac
    mount -o remount,ro "$mountpoint"
    ;;
  after) remove ;;
  *) echo "not a phase: $phase" >&2; exit 2 ;;
esac
