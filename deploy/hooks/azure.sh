#!/bin/sh
# A snapshot of a managed disk, attached as a disk of its own, for --pause hooks. The node runs all the time.
#   azure.sh before|after DISK LUN MOUNTPOINT
# DISK holds the node's base path, alone; LUN is a free number such as 9; MOUNTPOINT is made when it is not there. Needs
# the az command, logged in with the machine's identity, which may write disks and snapshots and the machine itself.
set -eu
phase=$1 disk=$2 lun=$3 mountpoint=$4

az login --identity --output none
about() { curl -sf -H Metadata:true "http://169.254.169.254/metadata/instance/compute/$1?api-version=2021-02-01&format=text"; }
group=$(about resourceGroupName)
machine=$(about name)
zone=$(about zone)
copy=presync-$disk

remove() {
  if mountpoint -q "$mountpoint"; then umount "$mountpoint"; fi
  if az disk show -g "$group" -n "$copy" --output none 2>/dev/null; then
    az vm disk detach -g "$group" --vm-name "$machine" -n "$copy" --output none 2>/dev/null || true
    az disk delete -g "$group" -n "$copy" --yes --output none
  fi
  if az snapshot show -g "$group" -n "$copy" --output none 2>/dev/null; then
    az snapshot delete -g "$group" -n "$copy" --output none
  fi
}

case $phase in
  before)
    remove
    az snapshot create -g "$group" -n "$copy" --source "$disk" --output none
    az disk create -g "$group" -n "$copy" --source "$copy" ${zone:+--zone "$zone"} --output none
    az vm disk attach -g "$group" --vm-name "$machine" -n "$copy" --lun "$lun" --output none
    device=/dev/disk/azure/scsi1/lun$lun
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
