#!/usr/bin/env bash
# Installs what some tests need beyond npm. What is there already is left alone.
#   PRESYNC_TOOL_CACHE   folder for tools that are built, default <repository>/.cache/tools
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="${PRESYNC_TOOL_CACHE:-$root/.cache/tools}"
shared="${HOME:-/nonexistent}/.cache/presync-tools"
versitygw_version=v1.8.0

missing=()
need() { # command, package
  command -v "$1" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need rclone rclone
need restic restic
need busybox busybox
need bsdtar libarchive-tools
need mkfs.xfs xfsprogs
need mkfs.btrfs btrfs-progs
need zstd zstd

if ((${#missing[@]} > 0)); then
  if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null 2>&1; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "missing, and not to be installed without root and apt-get: ${missing[*]}" >&2
  fi
fi

mkdir -p "$tools"

# Copies or builds it under another name first, so that a run that is stopped leaves no half of it.
if [[ -x "$tools/versitygw" ]]; then
  :
elif [[ -x "$shared/versitygw" ]]; then
  cp "$shared/versitygw" "$tools/.versitygw.$$" && mv "$tools/.versitygw.$$" "$tools/versitygw"
elif command -v go >/dev/null 2>&1; then
  echo "building versitygw $versitygw_version"
  build="$(mktemp -d)"
  trap 'rm -rf "$build"' EXIT
  GOBIN="$build" go install "github.com/versity/versitygw/cmd/versitygw@$versitygw_version"
  mv "$build/versitygw" "$tools/.versitygw.$$" && mv "$tools/.versitygw.$$" "$tools/versitygw"
  # The next clone on this machine need not build it again.
  if mkdir -p "$shared" 2>/dev/null && [[ -w "$shared" ]]; then
    cp "$tools/versitygw" "$shared/.versitygw.$$" && mv "$shared/.versitygw.$$" "$shared/versitygw"
  fi
else
  echo "missing, and not to be built without Go: versitygw" >&2
fi
