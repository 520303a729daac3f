#!/usr/bin/env bash
# Installs what some tests need beyond npm. What is there already is left alone.
#   PRESYNC_TOOL_CACHE   folder for tools that are built, default <repository>/.cache/tools
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="${PRESYNC_TOOL_CACHE:-$root/.cache/tools}"
shared="${HOME:-/nonexistent}/.cache/presync-tools"
versitygw_version=v1.8.0
azurite_version=3.37.0
fake_gcs_server_version=v1.56.1
ec2_metadata_mock_version=v1.13.0
compose_go_version=v2.16.2
kubernetes_validate_version=1.37.0
# Releases of MinIO are not semantic versions, and go by commit here.
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c

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
need lz4 lz4
need nginx nginx-light
need varnishd varnish
need openssl openssl
need promtool prometheus
need systemd-nspawn systemd-container
need debootstrap debootstrap
need lintian lintian
need man man-db
need zsh zsh
need fish fish
need objdump binutils
need ip iproute2
need python3 python3
need pip3 python3-pip
need curl curl

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

build=''
trap 'if [[ -n "$build" ]]; then rm -rf "$build"; fi' EXIT

# Copies or builds it under another name first, so that a run that is stopped leaves no half of it.
go_tool() { # name, package, version, and what it is called when it is built
  local name="$1" package="$2" version="$3" built="${4:-$1}"
  if [[ -x "$tools/$name" ]]; then
    :
  elif [[ -x "$shared/$name" ]]; then
    cp "$shared/$name" "$tools/.$name.$$" && mv "$tools/.$name.$$" "$tools/$name"
  elif command -v go >/dev/null 2>&1; then
    echo "building $name $version"
    build="$(mktemp -d)"
    GOBIN="$build" go install "$package@$version"
    mv "$build/$built" "$tools/.$name.$$" && mv "$tools/.$name.$$" "$tools/$name"
    rm -rf "$build"
    # The next clone on this machine need not build it again.
    if mkdir -p "$shared" 2>/dev/null && [[ -w "$shared" ]]; then
      cp "$tools/$name" "$shared/.$name.$$" && mv "$shared/.$name.$$" "$shared/$name"
    fi
  else
    echo "missing, and not to be built without Go: $name" >&2
  fi
}
go_tool versitygw github.com/versity/versitygw/cmd/versitygw "$versitygw_version"
go_tool fake-gcs-server github.com/fsouza/fake-gcs-server "$fake_gcs_server_version"
go_tool minio github.com/minio/minio "$minio_version"
go_tool ec2-metadata-mock github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock "$ec2_metadata_mock_version"
go_tool compose-go github.com/compose-spec/compose-go/v2/cmd "$compose_go_version" cmd

# A folder that another run has put there meanwhile stays.
place() { # from, to
  if [[ -e "$2" ]]; then rm -rf "$1"; else mv "$1" "$2"; fi
}

azurite="azurite-$azurite_version"
if [[ -d "$tools/$azurite" ]]; then
  :
elif [[ -d "$shared/$azurite" ]]; then
  cp -R "$shared/$azurite" "$tools/.$azurite.$$" && place "$tools/.$azurite.$$" "$tools/$azurite"
elif command -v npm >/dev/null 2>&1; then
  echo "installing $azurite"
  # In a folder of its own: its some 250 packages are none of the workspace's.
  npm install --prefix "$tools/.$azurite.$$" --ignore-scripts --no-audit --no-fund --loglevel=error "azurite@$azurite_version"
  place "$tools/.$azurite.$$" "$tools/$azurite"
  if mkdir -p "$shared" 2>/dev/null && [[ -w "$shared" ]]; then
    cp -R "$tools/$azurite" "$shared/.$azurite.$$" && place "$shared/.$azurite.$$" "$shared/$azurite"
  fi
else
  echo "missing, and not to be installed without npm: azurite" >&2
fi

# One of the libraries that it brings is compiled for the Python that installs it.
validate="kubernetes-validate-$kubernetes_validate_version-$(python3 -c 'import sys; print(f"py{sys.version_info[0]}{sys.version_info[1]}")')"
if [[ -d "$tools/$validate" ]]; then
  :
elif [[ -d "$shared/$validate" ]]; then
  cp -R "$shared/$validate" "$tools/.$validate.$$" && place "$tools/.$validate.$$" "$tools/$validate"
elif command -v pip3 >/dev/null 2>&1; then
  echo "installing $validate"
  PIP_ROOT_USER_ACTION=ignore pip3 install --quiet --disable-pip-version-check --no-warn-script-location \
    --target "$tools/.$validate.$$" "kubernetes-validate==$kubernetes_validate_version"
  place "$tools/.$validate.$$" "$tools/$validate"
  if mkdir -p "$shared" 2>/dev/null && [[ -w "$shared" && ! -d "$shared/$validate" ]]; then
    cp -R "$tools/$validate" "$shared/.$validate.$$" && place "$shared/.$validate.$$" "$shared/$validate"
  fi
else
  echo "missing, and not to be installed without pip: kubernetes-validate" >&2
fi

# A Debian tree in which systemd is booted, and which has cloud-init. It comes from where this machine's apt gets its
# packages. The number goes up when something is added to it, so that trees of earlier runs are not taken for it.
machine='machine-root-2'
suite=bookworm
if [[ -d "$tools/$machine" ]]; then
  :
elif [[ -d "$shared/$machine" ]]; then
  cp -a --reflink=auto "$shared/$machine" "$tools/.$machine.$$" && place "$tools/.$machine.$$" "$tools/$machine"
elif [[ "$(id -u)" == 0 ]] && PATH="$PATH:/usr/sbin" command -v debootstrap >/dev/null 2>&1; then
  echo "building $machine"
  mirror="$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
    awk -v suite="$suite" '$1 == suite && $2 == "main" { print $3; exit }')"
  proxy=''
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  packages=systemd,systemd-sysv,dbus,libatomic1,libstdc++6,ca-certificates,procps
  # debootstrap does not see that python3-cryptography needs the second of these, which is a virtual package there.
  packages+=,cloud-init,python3-cffi-backend
  ${proxy:+env http_proxy="$proxy"} env PATH="$PATH:/usr/sbin" debootstrap --variant=minbase \
    --include="$packages" "$suite" "$tools/.$machine.$$" ${mirror:+"$mirror"} >/dev/null
  rm -rf "$tools/.$machine.$$/var/cache/apt/archives/"*.deb
  place "$tools/.$machine.$$" "$tools/$machine"
  if mkdir -p "$shared" 2>/dev/null && [[ -w "$shared" && ! -d "$shared/$machine" ]]; then
    cp -a --reflink=auto "$tools/$machine" "$shared/.$machine.$$" && place "$shared/.$machine.$$" "$shared/$machine"
  fi
else
  echo "missing, and not to be built without root and debootstrap: $machine" >&2
fi
