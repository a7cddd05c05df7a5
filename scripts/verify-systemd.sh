#!/usr/bin/env bash
# Installs an archive of package.sh on this machine as docs/configuration.md says, and has systemd run it: both units become active, a put is
# there after a restart, and both end well. Leaves programs, units and data where they are, so it is for a machine that is thrown away, such
# as a runner of CI, and refuses one where FlareDB is installed. Needs root.
#
#   scripts/verify-systemd.sh ARCHIVE
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

readonly UNITS=(rdb-pd rdb-server)

# How long systemd may take to start or to stop both units.
readonly LIMIT_SECONDS=120

main() {
  (($# == 1)) || fail 'usage: scripts/verify-systemd.sh ARCHIVE'
  ((EUID == 0)) || fail 'it installs programs and units, so it needs root'
  [[ -d /run/systemd/system ]] || fail 'systemd does not run here'
  local path
  for path in /etc/flaredb /usr/bin/rdb-server /etc/systemd/system/rdb-server.service /var/lib/rdb-server; do
    [[ ! -e $path ]] || fail "FlareDB is installed here: there is $path"
  done
  directory=$(mktemp -d)
  trap finish EXIT
  tar --extract --gzip --file "$1" --directory "$directory" --strip-components 1 --no-same-owner
  cd "$directory"
  install_archive

  within_limit start
  rdbctl raw put greeting hello --timeout 1m
  within_limit restart
  local value
  value=$(rdbctl raw get greeting --timeout 1m)
  [[ $value == hello ]] || fail "got ${value:-nothing}, not what was put"
  within_limit stop
  local unit result
  for unit in "${UNITS[@]}"; do
    result=$(systemctl show --property Result --value "$unit")
    [[ $result == success ]] || fail "$unit ended with: $result"
  done
  echo 'verify-systemd: systemd runs both units'
}

# The commands of docs/configuration.md.
install_archive() {
  # The configuration is written by this shell, and read by the users of the units.
  umask 022
  install -m 755 bin/rdb-server bin/rdb-pd bin/rdbctl /usr/bin/
  install -d /etc/flaredb
  rdb-pd --print-config >/etc/flaredb/rdb-pd.toml
  rdb-server --print-config >/etc/flaredb/rdb-server.toml
  install -m 644 docs/systemd/*.service /etc/systemd/system/
  systemctl daemon-reload
}

# within_limit VERB: does that to both units, and waits until it is done. A start has no limit of its own.
within_limit() {
  timeout "$LIMIT_SECONDS" systemctl "$1" "${UNITS[@]}" || fail "systemctl $1 did not do it within $LIMIT_SECONDS seconds"
}

finish() {
  local code=$?
  ((code == 0)) || journalctl --no-pager --lines 100 --unit rdb-pd --unit rdb-server >&2 || true
  rm -rf "$directory"
  exit "$code"
}

main "$@"
