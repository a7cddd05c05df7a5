#!/usr/bin/env bash
# Runs every test binary many times and lists each test that ever failed. Exit code 1 when one did.
#
#   scripts/flakes.sh [--rounds N] [--busy] [--only NAME]
#
# --rounds N   how often each binary runs (5)
# --busy       beside one spinning process per core
# --only NAME  only the binaries of this name, e.g. e2e, storage, rdb_client
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

rounds=5 busy='' only=''
spinning=()
logs=''

main() {
  parse "$@"
  prepare
  cargo build "${WORKSPACE[@]}"
  logs=$(mktemp -d "${TMPDIR:-/tmp}/flaredb-flakes.XXXXXX")
  trap stop_spinning EXIT
  local binaries
  binaries=$(test_binaries)
  [[ -n $binaries ]] || fail "no test binary is named ${only:-anything}"
  [[ -z $busy ]] || spin
  local round name directory binary
  for ((round = 1; round <= rounds; round++)); do
    while IFS=$'\t' read -r name directory binary; do
      run "$round" "$name" "$directory" "$binary"
    done <<<"$binaries"
  done
  report
}

parse() {
  while (($#)); do
    case $1 in
      --rounds) rounds=${2-}; shift ;;
      --only) only=${2-}; shift ;;
      --busy) busy=yes ;;
      -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail "unknown argument $1; see --help" ;;
    esac
    shift || fail 'an argument has no value; see --help'
  done
  [[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds is '$rounds'; it has to be a number above 0"
}

# NAME, the package's directory and the binary of each, separated by tabs. Cargo says them in JSON, one object a line.
test_binaries() {
  cargo test "${WORKSPACE[@]}" --no-run --message-format json 2>/dev/null |
    sed -n 's|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"name":"\([^"]*\)".*"test":true.*"executable":"\([^"]*\)".*|\2\t\1\t\3|p' |
    awk -F '\t' -v only="$only" 'only == "" || $1 == only'
}

# Where cargo would run it. The tests of a binary that was killed count as one failure of its own name.
run() {
  local round=$1 name=$2 directory=$3 binary=$4 log
  log=$logs/$name.$round
  if (cd "$directory" && CARGO_MANIFEST_DIR=$directory "$binary" </dev/null) >"$log" 2>&1; then
    printf 'round %d of %d  %-12s %s\n' "$round" "$rounds" "$name" "$(grep '^test result' "$log" || echo 'no tests')"
    rm "$log"
    return
  fi
  printf 'round %d of %d  %-12s FAILED, see %s\n' "$round" "$rounds" "$name" "$log"
  { grep -E '^test .* FAILED$' "$log" || echo "test (the binary itself) ... FAILED"; } |
    sed "s|^test \(.*\) \.\.\. FAILED|$name \1|" >>"$logs/failed"
}

spin() {
  local core
  for ((core = 0; core < $(nproc); core++)); do
    while :; do :; done &
    spinning+=($!)
  done
}

stop_spinning() {
  ((${#spinning[@]} == 0)) || kill "${spinning[@]}" 2>/dev/null || true
}

report() {
  if [[ ! -s $logs/failed ]]; then
    rmdir "$logs"
    printf 'flakes: no test failed in %d rounds%s\n' "$rounds" "${busy:+, busy}"
    return
  fi
  printf 'flakes: failures in %d rounds%s; the output is in %s\n' "$rounds" "${busy:+, busy}" "$logs"
  sort "$logs/failed" | uniq -c | sort -rn
  return 1
}

main "$@"
