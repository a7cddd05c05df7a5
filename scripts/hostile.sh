#!/usr/bin/env bash
# Plays hostile peers against one rdb-server with default settings and prints what each cost: memory, and the worst latency
# of a well-behaved client beside it. Exit code 1 when a limit was missed, 2 when a peer could not be played. Takes about 11
# minutes, 3 GiB of memory for a server that keeps its promises, and as much as there is for one that does not.
#
#   scripts/hostile.sh [--only PEER]… [--list] [--profile release|dev] [--bin-dir DIR] [--no-build]
#
# --only PEER    only this peer; can be repeated
# --list         say which peers there are
# --profile P    which build of this checkout (release); limits on latency mean little with dev
# --bin-dir DIR  attack the rdb-pd and rdb-server in DIR instead of those of this checkout
# --no-build     take the binaries as they are
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

profile=release build=yes bin_dir='' arguments=()

main() {
  parse "$@"
  [[ -z $bin_dir ]] || bin_dir=$(realpath -e "$bin_dir")
  prepare
  local binaries=$CARGO_TARGET_DIR/release
  [[ $profile == release ]] || binaries=$CARGO_TARGET_DIR/debug
  [[ $build == no ]] || build_binaries
  # It ends what it started, also when it is interrupted.
  exec env "RDB_BIN_DIR=${bin_dir:-$binaries}" "$binaries/examples/hostile" "${arguments[@]}"
}

parse() {
  while (($#)); do
    case $1 in
      --only) arguments+=("$1" "$(value "$@")"); shift ;;
      --list) arguments+=("$1") ;;
      --profile)
        profile=$(value "$@"); shift
        [[ $profile == release || $profile == dev ]] || fail "--profile is $profile; it has to be release or dev"
        ;;
      --bin-dir) bin_dir=$(value "$@"); shift ;;
      --no-build) build=no ;;
      -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail "unknown argument $1; see --help" ;;
    esac
    shift
  done
}

value() {
  [[ $# -ge 2 && -n $2 ]] || fail "$1 needs a value"
  printf '%s\n' "$2"
}

# The example with the same selection of packages and features, so that it shares the one build of RocksDB.
build_binaries() {
  local flags=()
  [[ $profile == dev ]] || flags=(--release)
  cargo build "${WORKSPACE[@]}" "${flags[@]}"
  cargo build "${WORKSPACE[@]}" "${flags[@]}" --examples
}

main "$@"
