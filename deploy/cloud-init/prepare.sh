# Puts presync's files in their places. cloud-init runs it at each boot before ordinary services are started, so that
# a boot that was cut short is made up for by the next one.
# Arguments: the unit to enable, then for each file its path, mode and content, and what the package has in its place.
set -eu
unit=$1
shift
changed=no
while [ "$#" -ge 4 ]; do
  if [ -n "$4" ] && [ -e "$4" ]; then
    if [ "$(readlink "$1")" != "$4" ]; then
      mkdir -p "$(dirname "$1")"
      ln -sfn "$4" "$1"
      changed=yes
    fi
  elif ! printf '%s' "$3" | cmp -s - "$1"; then
    mkdir -p "$(dirname "$1")"
    printf '%s' "$3" >"$1.presync-new"
    chmod "$2" "$1.presync-new"
    sync "$1.presync-new"
    mv -f "$1.presync-new" "$1"
    changed=yes
  fi
  shift 4
done
if ! systemctl --quiet is-enabled "$unit"; then
  systemctl --quiet --no-reload enable "$unit"
  changed=yes
fi
# systemd has read its units before cloud-init ran.
if [ "$changed" = yes ]; then systemctl daemon-reload; fi
