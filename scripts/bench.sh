#!/usr/bin/env bash
# Measures FlareDB on this machine, side by side with what limits it (the disk, the engine without network, bare gRPC) and,
# where they are installed, with etcd and Redis. Writes a page with medians, ratios and a plot. Leaves nothing else behind,
# except what was built.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"
# shellcheck source=scripts/bench/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/machine.sh"
# shellcheck source=scripts/bench/processes.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/processes.sh"
# shellcheck source=scripts/bench/measurements.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/measurements.sh"

usage() {
  cat <<'TEXT'
usage: scripts/bench.sh [OPTION…]

  --quick          one short round of everything, a minute or two; the figures mean little
  --rounds N       rounds of every measurement (default 5)
  --seconds N      length of one measurement (default 5)
  --out DIR        where the page and the plot go (default docs/bench; with --only none)
  --data-dir DIR   file system for the data of all databases (default: the target directory's)
  --keep-runs DIR  also copy the measurements themselves there
  --skip-memory    without the memory of a server with 10 million keys
  --skip-cold      without keys that are not cached
  --skip-three     without three stores, and three etcd nodes beside them
  --skip-behind    without a store that is 1 GiB behind the other two
  --before DIR     programs of an earlier build, which the present ones are compared with in turn
  --skip-half      without the open loop at half of etcd's peak
  --skip-hot       without the 30 seconds on one key
  --skip-transfer  without export and import
  --skip-secured   without TLS and rights beside plain text
  --only SECTION   nothing but three, behind, before, cold, memory, transfer or secured; can be repeated
  --profile P      release (default) or dev, for trying the script
  --no-build       take the binaries as they are
  --force          measure although the machine is busy; the page says so
TEXT
}

rounds=5 seconds=5 warmup=1s single_rounds=10 keys=100000
out='' data_parent='' keep_runs='' before=''
profile=release build=yes force=no quick=no
skip='' only=''

main() {
  parse_arguments "$@"
  prepare
  binaries=$CARGO_TARGET_DIR/release
  [[ $profile == release ]] || binaries=$CARGO_TARGET_DIR/debug
  [[ $build == no ]] || build_binaries
  ignore_settings_of_the_environment

  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap finish EXIT
  data_parent=${data_parent:-$CARGO_TARGET_DIR}
  mkdir -p "$data_parent"
  directory=$(mktemp -d "$data_parent/flaredb-bench.XXXXXX")
  mkdir -p "$directory"/{runs,logs,disk}
  refuse_busy_machine

  if [[ -n $only ]]; then
    note_business
  else
    measure_one_store
  fi
  section three measure_three_stores
  section behind measure_store_behind
  [[ -z $before ]] || section before measure_against_before
  section cold measure_cold_keys
  section memory measure_memory
  section transfer measure_transfer
  section secured measure_secured
}

measure_one_store() {
  local round
  start_everything
  load_everything
  for ((round = 1; round <= rounds; round++)); do
    note_business
    printf '== round %d of %d\n' "$round" "$rounds"
    measure_round "$round"
  done
  printf '== one caller, batched and unary in turn\n'
  for ((round = 1; round <= single_rounds; round++)); do
    measure_single_caller "$round"
  done
  write_page
  section half measure_half_of_peak
  section hot measure_hot_key_for_long
  stop_databases
}

# Again after every section, so that one that fails takes nothing along.
write_page() {
  describe_machine >"$directory/machine"
  [[ -z $keep_runs ]] || { mkdir -p "$keep_runs" && cp -r "$directory"/{machine,runs} "$keep_runs/"; }
  [[ -z $out ]] || "$binaries/examples/bench_summary" "$directory" "$out"
}

parse_arguments() {
  while (($#)); do
    case $1 in
      --quick) quick=yes rounds=1 seconds=1 warmup=300ms single_rounds=2 keys=5000 ;;
      --rounds) rounds=$(whole_number "$@") && shift ;;
      --seconds) seconds=$(whole_number "$@") && shift ;;
      --out) out=$(value "$@") && shift ;;
      --data-dir) data_parent=$(value "$@") && shift ;;
      --before) before=$(realpath "$(value "$@")") && shift ;;
      --keep-runs) keep_runs=$(value "$@") && shift ;;
      --skip-memory | --skip-cold | --skip-three | --skip-behind | --skip-half | --skip-hot | --skip-transfer | --skip-secured)
        skip+=" ${1#--skip-}"
        ;;
      --only)
        only+=" $(value "$@")" && shift
        [[ ${only##* } =~ ^(three|behind|before|cold|memory|transfer|secured)$ ]] || fail "--only does not know ${only##* }; see --help"
        ;;
      --profile)
        profile=$(value "$@") && shift
        [[ $profile == release || $profile == dev ]] || fail "--profile is $profile; it has to be release or dev"
        ;;
      --no-build) build=no ;;
      --force) force=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      *)
        usage >&2
        exit 2
        ;;
    esac
    shift
  done
  [[ -n $only ]] || out=${out:-docs/bench}
  [[ "$only " != *' before '* || -n $before ]] || fail '--only before needs --before DIR'
}

value() {
  [[ $# -ge 2 && -n $2 ]] || fail "$1 needs a value"
  printf '%s\n' "$2"
}

# The examples with the same selection of packages and features, so that they share the one build of RocksDB.
build_binaries() {
  local flags=()
  [[ $profile == dev ]] || flags=(--release)
  cargo build "${WORKSPACE[@]}" "${flags[@]}"
  cargo build "${WORKSPACE[@]}" "${flags[@]}" --examples
}

# section NAME COMMAND: unless it is to be skipped, or only others are wanted.
section() {
  if [[ " $skip " == *" $1 "* || (-n $only && "$only " != *" $1 "*) ]]; then
    return
  fi
  printf '== %s\n' "$1"
  "$2"
  write_page
}

rdbctl() {
  "$binaries/rdbctl" "$@"
}

# Each program takes settings from the environment, too; this run is about the defaults.
ignore_settings_of_the_environment() {
  local name
  for name in "${!RDB_PD_@}" "${!RDB_SERVER_@}" "${!RDBCTL_@}" "${!ETCD_@}"; do
    unset "$name"
  done
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  stop_everything
  if ((code != 0)) && [[ -d ${directory:-} ]]; then
    show_logs >&2
  fi
  [[ -z ${directory:-} ]] || rm -rf "$directory"
  exit "$code"
}

show_logs() {
  local log
  for log in "$directory"/logs/*; do
    [[ -s $log ]] || continue
    printf -- '---- the end of %s\n' "$(basename "$log")"
    tail -n 20 "$log"
  done
}

main "$@"
