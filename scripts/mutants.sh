#!/usr/bin/env bash
# Makes the stores break one promise after the other, and has the fault suite notice each: prints a table, and exits with 1 when
# one goes unnoticed. Before that, each run has to pass while all promises are kept. Needs root and a C compiler, as the runs do.
#
#   scripts/mutants.sh [--rounds N] [--tries N] [--only MUTANT]
#
# --rounds N     how often a run repeats its faults (3)
# --tries N      how many runs a mutant may survive (3)
# --only MUTANT  only this one
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

# A mutant of rdb-raft/src/mutant.rs, and the run whose fault shows it.
MUTANTS=(
  'acknowledge-before-sync all_stores_lose_power_at_once'
  'read-without-lease leaders_are_cut_off_from_all_others'
  'whole-lease a_leader_whose_clock_is_slow_is_cut_off'
  'vote-at-once all_followers_restart_while_their_leader_is_cut_off'
  'drop-position stores_are_restarted_one_after_the_other'
  'apply-before-commit leaders_are_cut_off_from_all_others'
  'not-leader-after-proposal syncs_of_leaders_fail'
)

rounds=3 tries=3 chosen=("${MUTANTS[@]}")
logs='' survivors=0

main() {
  parse "$@"
  prepare
  cargo build "${WORKSPACE[@]}"
  cargo test "${WORKSPACE[@]}" --test faults --no-run
  logs=$(mktemp -d "${TMPDIR:-/tmp}/flaredb-mutants.XXXXXX")
  export RDB_FAULTS_ROUNDS=$rounds RDB_REQUIRE_ALL_TESTS=1
  local line mutant run
  while read -r run; do
    pass "$run"
  done < <(printf '%s\n' "${chosen[@]#* }" | sort -u)
  for line in "${chosen[@]}"; do
    read -r mutant run <<<"$line"
    hunt "$mutant" "$run"
  done
  ((survivors == 0)) || fail "$survivors went unnoticed; the logs are in $logs"
  rm -rf "$logs"
}

parse() {
  while (($#)); do
    case $1 in
      --rounds | --tries | --only) (($# > 1)) || fail "$1 needs a value" ;;
      *) fail "unknown argument: $1" ;;
    esac
    case $1 in
      --rounds) rounds=$2 ;;
      --tries) tries=$2 ;;
      --only) choose "$2" ;;
    esac
    shift 2
  done
}

choose() {
  local line
  for line in "${MUTANTS[@]}"; do
    if [[ ${line%% *} == "$1" ]]; then
      chosen=("$line")
      return
    fi
  done
  fail "no mutant is named '$1'; there are: ${MUTANTS[*]%% *}"
}

# pass RUN: what a run finds shows a mutant only if it finds nothing without one.
pass() {
  local run=$1 began=$SECONDS log=$logs/$1
  env -u RDB_FAULTS_MUTANT cargo test "${WORKSPACE[@]}" --test faults -- "$run" >"$log" 2>&1 </dev/null ||
    fail "$run fails without a mutant; see $log"
  require_run "$run" "$log"
  row none "$run" passes "$began"
}

# hunt MUTANT RUN: only a violation counts, not a run that fails otherwise.
hunt() {
  local mutant=$1 run=$2 began=$SECONDS try log
  for ((try = 1; try <= tries; try++)); do
    log=$logs/$mutant.$try
    RDB_FAULTS_MUTANT=$mutant cargo test "${WORKSPACE[@]}" --test faults -- "$run" >"$log" 2>&1 || true
    if grep -q '^VIOLATION' "$log"; then
      row "$mutant" "$run" "noticed in run $try" "$began"
      remove_history "$log"
      return
    fi
    require_run "$run" "$log"
  done
  row "$mutant" "$run" UNNOTICED "$began"
  survivors=$((survivors + 1))
}

# require_run RUN LOG: no test may have the name.
require_run() {
  grep -q '^running 1 test$' "$2" || fail "$1 did not run; see $2"
}

remove_history() {
  local history
  sed -n 's/^The history is in \(.*\)\. To check it again:$/\1/p' "$1" | while read -r history; do
    rm -f "$history"
  done
}

row() {
  printf '%-26s %-52s %-18s %4d s\n' "$1" "$2" "$3" $((SECONDS - $4))
}

main "$@"
