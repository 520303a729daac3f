#!/bin/sh
# A snapshot of an EBS volume, mounted as a volume of its own, for --pause hooks. The node runs all the time.
#   ebs.sh before|after VOLUME_ID DEVICE MOUNTPOINT
# VOLUME_ID holds the node's base path, alone; DEVICE is a free name such as /dev/sdp; MOUNTPOINT is made when it is not
# there. Needs the AWS CLI and, for the instance's role: ec2:CreateSnapshot, CreateVolume, AttachVolume, DetachVolume,
# DeleteVolume, DeleteSnapshot, CreateTags, DescribeSnapshots, DescribeVolumes.
# A first snapshot takes hours: give --hook-timeout accordingly.
set -eu
phase=$1 volume=$2 device=$3 mountpoint=$4

token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' http://169.254.169.254/latest/api/token)
about() { curl -sf -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"; }
instance=$(about instance-id)
zone=$(about placement/availability-zone)
AWS_DEFAULT_REGION=$(about placement/region)
export AWS_DEFAULT_REGION
tag=presync:$instance:$volume

remove() {
  if mountpoint -q "$mountpoint"; then umount "$mountpoint"; fi
  for copy in $(aws ec2 describe-volumes --filters "Name=tag:presync,Values=$tag" --query 'Volumes[].VolumeId' --output text); do
    aws ec2 detach-volume --volume-id "$copy" >/dev/null 2>&1 || true
    aws ec2 wait volume-available --volume-ids "$copy"
    aws ec2 delete-volume --volume-id "$copy"
  done
  for snapshot in $(aws ec2 describe-snapshots --owner-ids self --filters "Name=tag:presync,Values=$tag" --query 'Snapshots[].SnapshotId' --output text); do
    aws ec2 delete-snapshot --snapshot-id "$snapshot"
  done
}

case $phase in
  before)
    remove
    snapshot=$(aws ec2 create-snapshot --volume-id "$volume" --description presync \
      --tag-specifications "ResourceType=snapshot,Tags=[{Key=presync,Value=$tag}]" --query SnapshotId --output text)
    # The CLI's own waiter gives up after ten minutes.
    until [ "$(aws ec2 describe-snapshots --snapshot-ids "$snapshot" --query 'Snapshots[0].State' --output text)" = completed ]; do sleep 10; done
    copy=$(aws ec2 create-volume --snapshot-id "$snapshot" --availability-zone "$zone" --volume-type gp3 \
      --tag-specifications "ResourceType=volume,Tags=[{Key=presync,Value=$tag}]" --query VolumeId --output text)
    aws ec2 wait volume-available --volume-ids "$copy"
    aws ec2 attach-volume --volume-id "$copy" --instance-id "$instance" --device "$device" >/dev/null
    # On Nitro the disk is known by the volume's id, without its hyphen.
    disk=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$(echo "$copy" | tr -d -)
    for _ in $(seq 60); do [ -e "$disk" ] || [ -e "$device" ] && break; sleep 1; done
    [ -e "$disk" ] || disk=$device
    mkdir -p "$mountpoint"
    # Not read-only at once: what its journal holds must be taken over first.
    case $(blkid -o value -s TYPE "$disk") in
      # Two copies of an xfs have the same UUID, which it refuses otherwise.
      xfs) mount -o nouuid "$disk" "$mountpoint" ;;
      *) mount "$disk" "$mountpoint" ;;
    esac
    mount -o remount,ro "$mountpoint"
    ;;
  after) remove ;;
  *) echo "not a phase: $phase" >&2; exit 2 ;;
esac
