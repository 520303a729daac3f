#!/bin/sh
# A snapshot of a persistent disk, attached as a disk of its own, for --pause hooks. The node runs all the time.
#   gcp.sh before|after DISK MOUNTPOINT
# DISK holds the node's base path, alone; MOUNTPOINT is made when it is not there. Needs gcloud, and for the machine's
# service account: compute.disks.create, createSnapshot, delete, get, use; compute.snapshots.create, delete, get,
# useReadOnly; compute.instances.attachDisk, detachDisk.
set -eu
phase=$1 disk=$2 mountpoint=$3

about() { curl -sf -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/$1"; }
instance=$(about name)
zone=$(about zone)
zone=${zone##*/}
copy=presync-$disk
copy=$(printf %.60s "$copy")

remove() {
  if mountpoint -q "$mountpoint"; then umount "$mountpoint"; fi
  if gcloud compute disks describe "$copy" --zone "$zone" >/dev/null 2>&1; then
    gcloud compute instances detach-disk "$instance" --disk "$copy" --zone "$zone" --quiet >/dev/null 2>&1 || true
    gcloud compute disks delete "$copy" --zone "$zone" --quiet
  fi
  if gcloud compute snapshots describe "$copy" >/dev/null 2>&1; then
    gcloud compute snapshots delete "$copy" --quiet
  fi
}

case $phase in
  before)
    remove
    gcloud compute snapshots create "$copy" --source-disk "$disk" --source-disk-zone "$zone" --quiet
    gcloud compute disks create "$copy" --source-snapshot "$copy" --zone "$zone" --quiet
    gcloud compute instances attach-disk "$instance" --disk "$copy" --device-name "$copy" --zone "$zone" --quiet
    device=/dev/disk/by-id/google-$copy
    for _ in $(seq 60); do [ -e "$device" ] && break; sleep 1; done
    mkdir -p "$mountpoint"
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
