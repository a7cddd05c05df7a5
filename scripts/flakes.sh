#!/usr/bin/env bash
# Runs every test binary many times and lists each test that ever failed. Exit code 1 when one did. Prints what tests have measured. Only
# --whole runs doctests and the other steps of test.sh.
#
#   scripts/flakes.sh [--rounds N] [--busy] [--limit SECONDS] [--whole | [--together N] [--only NAME | --without NAME]]
#
# --rounds N       how often each binary runs (5)
# --busy           beside one spinning process per core
# --limit SECONDS  when a binary counts as hung (900), or the script of --whole (14400); its tests that run by then have failed
# --whole          all of scripts/test.sh instead of the binaries; it ends at its first step that fails
# --together N     how many binaries run at the same time (1); most tests wait for most of their time
# --only NAME      only the binaries of this name, e.g. e2e, storage, rdb_client
# --without NAME   all binaries but those of this name
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/binaries.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/binaries.sh"

rounds=5 together=1 busy='' whole='' only='' without='' limit=''
# What a run that passed prints.
passed='test result: ok'
# `logs` has a directory for each round, with the output of the binaries that failed.
logs='' round=0 finished_rounds=0
spinning=()

main() {
  parse "$@"
  prepare
  local binaries
  if [[ -n $whole ]]; then
    passed='test: every step passed' limit=${limit:-14400}
    binaries=$(printf 'test.sh\t%s\t%s' "$PWD" "$PWD/scripts/test.sh")
  else
    limit=${limit:-900}
    # The end-to-end tests want the programs beside them.
    cargo build "${WORKSPACE[@]}"
    cargo test "${WORKSPACE[@]}" --no-run
    binaries=$(chosen_binaries)
    [[ -n $binaries ]] || fail "no test binary is named ${only:-anything}"
  fi

  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap finish EXIT
  logs=$(mktemp -d "${TMPDIR:-/tmp}/flaredb-flakes.XXXXXX")
  touch "$logs"/{failed,skipped}
  export RDB_SKIPPED_TESTS=$logs/skipped
  [[ -z $busy ]] || spin
  for ((round = 1; round <= rounds; round++)); do
    mkdir "$logs/$round"
    run_binaries "$together" "$limit" "$logs/$round" note <<<"$binaries"
    finished_rounds=$round
  done
  [[ ! -s $logs/failed ]]
}

parse() {
  while (($#)); do
    case $1 in
      --rounds) rounds=$(whole_number "$@"); shift ;;
      --together) together=$(whole_number "$@"); shift ;;
      --limit) limit=$(whole_number "$@"); shift ;;
      --only) only=${2-}; shift || fail '--only needs a name' ;;
      --without) without=${2-}; shift || fail '--without needs a name' ;;
      --busy) busy=yes ;;
      --whole) whole=yes ;;
      -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail "unknown argument $1; see --help" ;;
    esac
    shift || fail 'an argument has no value; see --help'
  done
  [[ -z $whole || ($together == 1 && -z $only$without) ]] ||
    fail '--together, --only and --without are about binaries, but --whole runs test.sh'
}

# Those that were asked for.
chosen_binaries() {
  test_binaries |
    awk -F '\t' -v only="$only" -v without="$without" '(only == "" || $1 == only) && (without == "" || $1 != without)'
}

# note NAME EXIT_CODE: what came of a binary, or of test.sh, in this round.
note() {
  local name=$1 code=$2 log=$logs/$round/$1 result
  # test.sh collects for itself what it skips.
  [[ -z $whole ]] || grep '^skipped: ' "$log" >>"$logs/skipped" || true
  if ((code == 0)) && result=$(grep "^$passed" "$log"); then
    grep -o 'measured: .*' "$log" || true
    rm "$log"
  else
    result="FAILED, see $log"
    failures "$log" "$code" | sed "s|^|$name |" >>"$logs/failed"
  fi
  printf 'round %d of %d  %-12s %s\n' "$round" "$rounds" "$name" "$result"
}

# failures LOG EXIT_CODE: the tests that failed, or the step. A binary that did not end by itself has told which were slow before.
failures() {
  local failed
  failed=$(sed -n -e 's/^test \(.*\) \.\.\. FAILED$/\1/p' -e 's/^test: FAILED at \(.*\)$/(step: \1)/p' "$1")
  [[ -z $failed ]] || printf '%s\n' "$failed"
  (($2 != 101)) || [[ -z $failed ]] || return 0
  sed -n 's/.*test \(.*\) has been running for over 60 seconds$/\1/p' "$1" | while read -r name; do
    grep -qF "test $name ... " "$1" || printf '%s (not done)\n' "$name"
  done
  case $2 in
    0) printf '(itself: ended without a result)\n' ;;
    124 | 137) printf '(itself: killed, or not done within %d s)\n' "$limit" ;;
    *) printf '(itself: exit code %d)\n' "$2" ;;
  esac
}

spin() {
  local core cores
  cores=$(nproc)
  for ((core = 0; core < cores; core++)); do
    spin_beside $$ &
    spinning+=($!)
    # `wait -n` looks at all jobs.
    disown
  done
}

# Ends with the script, also when that is killed and cannot stop it.
spin_beside() {
  local count
  while kill -0 "$1" 2>/dev/null; do
    for ((count = 0; count < 100000; count++)); do :; done
  done
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  stop_binaries
  ((${#spinning[@]} == 0)) || kill "${spinning[@]}" 2>/dev/null || true
  report
  exit "$code"
}

report() {
  sort -u "$logs/skipped"
  if [[ -s $logs/failed ]]; then
    printf 'flakes: failures in %d of %d rounds%s; the output is in %s\n' \
      "$finished_rounds" "$rounds" "${busy:+, busy}" "$logs"
    sort "$logs/failed" | uniq -c | sort -rn
  else
    printf 'flakes: no test failed in %d of %d rounds%s\n' "$finished_rounds" "$rounds" "${busy:+, busy}"
    rm -rf "$logs"
  fi
}

main "$@"
