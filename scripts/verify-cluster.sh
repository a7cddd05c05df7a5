#!/usr/bin/env bash
# Runs three stores and a placement driver for real and checks that they are one database which loses nothing and goes on:
# builds this checkout, starts them in a temporary directory, writes under load, kills the store that leads with SIGKILL,
# brings it back, reads everything, and has the replicas compare what they hold. Prints one line per step and exits 0 only
# when every step held; otherwise the logs of all processes are shown. Leaves nothing behind, except what was built.
#
#   scripts/verify-cluster.sh [--kills N] [--put-within TIME]
#
# --kills N          how often the store that leads is killed (1)
# --put-within TIME  the deadline of a put, elections included (100s, for a busy machine; on an idle one some 6s are needed)
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"
# shellcheck source=scripts/lib/verify.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/verify.sh"

readonly STORES=(store-1 store-2 store-3)
readonly WRITERS=(writer-1 writer-2 writer-3)

# How long anything may take before it counts as hung.
readonly DONE_WITHIN_SECONDS=120

kills=1 put_within=100s
leader=''
killed=''

main() {
  parse "$@"
  begin_verification

  step 'rdb-pd and three stores start and are healthy' start_on_free_ports start_all pd "${STORES[@]}"
  step 'one store leads the region, and all three hold it' find_leader
  step 'writers and a benchmark put keys' begin_load
  step "SIGKILL the store that leads: writers go on, another leads, it starts again (kills: $kills)" kill_leaders
  step 'no put failed' end_load
  step 'every acknowledged put is there' expect_acknowledged
  step 'all replicas hold the same data' replicas_agree
  step 'SIGTERM all: exit code 0' stop_all
  echo 'verify-cluster: every step held'
}

parse() {
  while (($#)); do
    case $1 in
      --kills) kills=$(whole_number "$@"); shift ;;
      --put-within) put_within=${2-}; shift || fail '--put-within needs a time' ;;
      -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail "unknown argument $1; see --help" ;;
    esac
    shift || fail 'an argument has no value; see --help'
  done
}

# The steps.

start_all() {
  start pd rdb-pd --initial-replicas "${#STORES[@]}"
  local name
  for name in "${STORES[@]}"; do
    start_store "$name"
  done
}

start_store() {
  start "$1" rdb-server --advertise-addr "$(address_of "$1")" --pd "$(address_of pd)"
}

find_leader() {
  wait_until 'a store leads' leads_another_than none
  expect_equal "${#STORES[@]}" "$(region | grep -o '"store_id":[0-9]*,"is_learner":false' | sed 's/,.*//' | sort -u | wc -l)"
}

begin_load() {
  local writer
  for writer in "${WRITERS[@]}"; do
    : >"$directory/$writer.acknowledged"
    write "$writer" >>"$directory/$writer.log" 2>&1 &
    echo $! >"$directory/$writer.pid"
  done
  # The writers say what was acknowledged, this one sees to the load. Its id is that of the program, not of a shell.
  "$CARGO_TARGET_DIR/debug/rdbctl" bench raw-put --keys 1000 --concurrency 8 --duration 10m \
    >/dev/null 2>>"$directory/bench.log" &
  echo $! >"$directory/bench.pid"
  writers_go_on
}

kill_leaders() {
  local kill
  for ((kill = 0; kill < kills; kill++)); do
    wait_until 'a store leads' leads_another_than none
    killed=$leader
    sigkill "$killed"
    truncate --size 0 "$directory"/writer-*.seconds
    writers_go_on
    sort -n "$directory"/writer-*.seconds | tail -n 1 >>"$directory/slowest"
    wait_until 'another store leads' leads_another_than "$killed"
    start_store "$killed"
    become_healthy
    writers_go_on
  done
  sort -n "$directory/slowest" |
    awk '{ s[NR] = $1 } END { printf "      the slowest put of each kill: %s s (median), %s s (worst)\n", s[int((NR + 1) / 2)], s[NR] }'
}

writers_go_on() {
  local writer before
  for writer in "${WRITERS[@]}"; do
    before=$(acknowledged "$writer")
    wait_until "$writer goes on" has_acknowledged_more_than "$writer" $((before + 2))
  done
}

end_load() {
  local writer
  touch "$directory/stop"
  for writer in "${WRITERS[@]}"; do
    wait_for_exit_0 "$writer" "$DONE_WITHIN_SECONDS"
  done
  kill -0 "$(pid_of bench)" || fail 'the benchmark ended before it was told to'
  reap bench
}

# What was acknowledged and is not there, or has another value.
expect_acknowledged() {
  rdbctl raw scan --prefix writer- | sort >"$directory/found"
  sort "$directory"/writer-*.acknowledged >"$directory/acknowledged"
  expect_equal '' "$(comm -13 "$directory/found" "$directory/acknowledged")"
  printf '      %s puts\n' "$(wc -l <"$directory/acknowledged")"
}

replicas_agree() {
  wait_until 'the replicas agree' check_region
  cut -c 1-140 "$directory/check"
}

stop_all() {
  stop "${STORES[@]}"
  stop pd
}

# What the steps are made of.

# wait_until WHAT COMMAND…
wait_until() {
  local what=$1 deadline=$((SECONDS + DONE_WITHIN_SECONDS))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || fail "$what: not within $DONE_WITHIN_SECONDS seconds"
    sleep 0.1
  done
}

region() {
  rdbctl region list --output json
}

# leads_another_than NAME: notes who leads.
leads_another_than() {
  local address name
  address=$(region | sed -n 's/.*"leader":{"store_id":[0-9]*,"address":"\([^"]*\)".*/\1/p')
  for name in "${STORES[@]}"; do
    if [[ $(address_of "$name") == "$address" && $name != "$1" ]]; then
      leader=$name
      return
    fi
  done
  return 1
}

# Puts one key after the other until it is told to stop. Each has to succeed. The answer to one may be lost with the store: nobody
# else writes this key, so it is put again.
write() {
  local number key code began
  for ((number = 0; ; number++)); do
    [[ ! -e $directory/stop ]] || exit 0
    key=$1-$number
    code=0 began=$EPOCHREALTIME
    put "$key" "$number" || code=$?
    if ((code == 5)); then
      put "$key" "$number" || exit
    elif ((code != 0)); then
      exit "$code"
    fi
    printf '%s\t%s\n' "$key" "$number" >>"$directory/$1.acknowledged"
    seconds_since "$began" >>"$directory/$1.seconds"
  done
}

put() {
  rdbctl --timeout "$put_within" raw put "$1" "$2" >/dev/null
}

# seconds_since EPOCHREALTIME: with two digits.
seconds_since() {
  local us=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
  printf '%d.%02d\n' $((us / 1000000)) $((us / 10000 % 100))
}

acknowledged() {
  wc -l <"$directory/$1.acknowledged"
}

# has_acknowledged_more_than NAME COUNT: a writer that has ended never does.
has_acknowledged_more_than() {
  kill -0 "$(pid_of "$1")" 2>/dev/null || fail "$1 has ended"
  (($(acknowledged "$1") > $2))
}

check_region() {
  rdbctl region check >"$directory/check" 2>>"$directory/check.log"
}

main "$@"
