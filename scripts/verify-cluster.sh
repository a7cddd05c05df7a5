#!/usr/bin/env bash
# Runs three stores and a placement driver for real and checks that they are one database which loses nothing and goes on:
# builds this checkout, starts them in a temporary directory, writes under load, kills the store that leads with SIGKILL under
# clients that know no other leader, brings it back, reads everything, and has the replicas compare what they hold. Prints one
# line per step and exits 0 only when every step held; otherwise the logs of all processes are shown. Leaves nothing behind,
# except what was built.
#
#   scripts/verify-cluster.sh [--kills N] [--put-within TIME]
#
# --kills N          how often the store that leads is killed (1). If another store had just taken over, the kill does not count and is
#                    repeated
# --put-within TIME  the deadline of a call, elections included (100s, for a busy machine; on an idle one some 6s are needed).
#                    Where it is given, service also has to go on within three election timeouts (9s) of a kill
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"
# shellcheck source=scripts/lib/verify.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/verify.sh"

readonly STORES=(store-1 store-2 store-3)
readonly WRITERS=(writer-1 writer-2 writer-3)

# Workloads of `rdbctl bench`. For each kill there is a client of each, from before the kill until service has gone on.
readonly CLIENTS=(raw-put raw-get)
readonly CLIENT_SECONDS=12
readonly CLIENT_KEYS=1000

# Three times the longest election timeout.
readonly GAP_MS_MAX=9000

# Followers elect no other leader for a lease (3 s) and a timeout (2 s) after they last heard of theirs. So one that leads sooner than
# this after a kill was not elected because of it.
readonly NOBODY_LEADS_SECONDS=2

# How many more kills than those that count may hit no leader.
readonly MISSES_MAX=3

kills=1 put_within=100s gap_is_judged=no undetermined=0
# Who leads, and in which term. After a kill: whether it hit a leader, the slowest put in seconds, and by workload the longest gap.
leader='' term=0
has_hit=no slowest=''
declare -A gaps_ms=()

main() {
  parse "$@"
  begin_verification

  step 'rdb-pd and three stores start and are healthy' start_on_free_ports start_all pd "${STORES[@]}"
  step 'one store leads the region, and all three hold it' find_leader
  step 'writers put keys' begin_load
  step "SIGKILL the store that leads: writers and clients go on, another leads in a later term, it starts again (kills: $kills)" \
    kill_leaders
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
      --put-within) put_within=${2-} gap_is_judged=yes; shift || fail '--put-within needs a time' ;;
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
  wait_until 'a store leads' is_led
  expect_equal "${#STORES[@]}" "$(region | grep -o '"store_id":[0-9]*,"is_learner":false' | sed 's/,.*//' | sort -u | wc -l)"
}

begin_load() {
  local writer
  wait_until 'the keys of the clients are there' load_keys
  for writer in "${WRITERS[@]}"; do
    : >"$directory/$writer.acknowledged"
    : >"$directory/$writer.undetermined"
    write "$writer" >>"$directory/$writer.log" 2>&1 &
    echo $! >"$directory/$writer.pid"
  done
  writers_go_on
}

kill_leaders() {
  local hits=0 misses=0 workload
  while ((hits < kills)); do
    kill_leader
    if [[ $has_hit == no ]]; then
      misses=$((misses + 1))
      ((misses <= kills + MISSES_MAX)) || fail "$misses kills hit no leader, and only $hits hit one"
      continue
    fi
    hits=$((hits + 1))
    echo "$slowest" >>"$directory/slowest"
    for workload in "${CLIENTS[@]}"; do
      printf '%d.%02d\n' $((gaps_ms[$workload] / 1000)) $((gaps_ms[$workload] % 1000 / 10)) >>"$directory/gaps-$workload"
    done
  done
  print_spread 'the slowest put' "$directory/slowest"
  for workload in "${CLIENTS[@]}"; do
    print_spread "the longest time without a $workload" "$directory/gaps-$workload"
  done
  printf '      %d kills hit a leader; %d hit none and do not count\n' "$hits" "$misses"
}

# Kills the store that leads, and starts it again when another one leads.
kill_leader() {
  local killed killed_in_term too_early
  has_hit=no
  begin_clients
  writers_go_on
  until wait_until 'a store leads' is_led && clients_run; do
    end_clients
    begin_clients
  done
  killed=$leader killed_in_term=$term
  sigkill "$killed"
  too_early=$(date --utc --date "$NOBODY_LEADS_SECONDS seconds" +%FT%T.%6NZ)
  truncate --size 0 "$directory"/writer-*.seconds
  writers_go_on
  slowest=$(sort -n "$directory"/writer-*.seconds | tail -n 1)
  wait_until 'another store leads in a later term' another_leads "$killed" "$killed_in_term"
  [[ $(led_again_at "$killed_in_term") > $too_early ]] && has_hit=yes
  start_store "$killed"
  end_clients
  become_healthy
  writers_go_on
}

# Their ids are those of the programs, not of shells.
begin_clients() {
  local workload
  for workload in "${CLIENTS[@]}"; do
    "$CARGO_TARGET_DIR/debug/rdbctl" --timeout "$put_within" --output json bench "$workload" --no-load --keys "$CLIENT_KEYS" \
      --concurrency 4 --warmup 0 --duration "${CLIENT_SECONDS}s" >"$directory/client-$workload.json" 2>>"$directory/client-$workload.log" &
    echo $! >"$directory/client-$workload.pid"
  done
}

clients_run() {
  local workload
  for workload in "${CLIENTS[@]}"; do
    ! has_ended "client-$workload" || return 1
  done
}

# A put that was under way to the store that was killed may end as undetermined. Nothing else may fail, and no read.
end_clients() {
  local workload report
  local only_undetermined='"errors":\{("undetermined":([0-9]+))?\}' longest_gap='"longest_gap_ms":([0-9]+)'
  for workload in "${CLIENTS[@]}"; do
    wait_until "the client of $workload ends" has_ended "client-$workload"
    rm "$directory/client-$workload.pid"
    report=$(<"$directory/client-$workload.json")
    [[ $report =~ \"operations\":[1-9] ]] || fail "the client of $workload did nothing: $report"
    [[ $report =~ $only_undetermined ]] || fail "the client of $workload met an error: $report"
    [[ $workload == raw-put || -z ${BASH_REMATCH[2]:-} ]] || fail "the client of $workload met an undetermined read: $report"
    undetermined=$((undetermined + ${BASH_REMATCH[2]:-0}))
    [[ $report =~ $longest_gap ]] || fail "the client of $workload names no gap: $report"
    gaps_ms[$workload]=${BASH_REMATCH[1]}
    [[ $gap_is_judged == no || $has_hit == no ]] || ((gaps_ms[$workload] <= GAP_MS_MAX)) ||
      fail "no $workload for ${gaps_ms[$workload]} ms, more than $GAP_MS_MAX"
  done
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
  printf '      %d puts of clients and %d of writers ended as undetermined, the latter were put again; no call ended in another error\n' \
    "$undetermined" "$(cat "$directory"/writer-*.undetermined | wc -l)"
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

region() {
  rdbctl region list --output json
}

# Notes which store leads, and in which term. The placement driver has to know the latest leader of whom a store knows.
is_led() {
  local route known address name
  known='"term":([0-9]+),.*"leader":\{"store_id":[0-9]+,"address":"([^"]*)"'
  route=$(region)
  [[ $route =~ $known ]] || return 1
  term=${BASH_REMATCH[1]} address=${BASH_REMATCH[2]}
  [[ $term == "$(leaders | awk '$2 > latest { latest = $2 } END { print latest }')" ]] || return 1
  for name in "${STORES[@]}"; do
    if [[ $(address_of "$name") == "$address" ]]; then
      leader=$name
      return
    fi
  done
  return 1
}

# another_leads NAME TERM: than the store NAME, in a term after TERM.
another_leads() {
  is_led && [[ $leader != "$1" ]] && ((term > $2))
}

# led_again_at TERM: when a store first knew of a leader in a later term. Such times are in the order of their characters.
led_again_at() {
  leaders | awk -v term="$1" '$2 > term && (first == "" || $1 < first) { first = $1 } END { print first }'
}

# What the stores have logged of the leaders of their only region: a line with the time and the term.
leaders() {
  sed -n 's/^\([^ ]*\) .* a group has a leader .*term=\([0-9]*\).*/\1 \2/p' "$directory"/store-*.log
}

load_keys() {
  rdbctl --timeout "$put_within" bench load --keys "$CLIENT_KEYS" >/dev/null 2>>"$directory/load.log"
}

has_ended() {
  ! kill -0 "$(pid_of "$1")" 2>/dev/null
}

# print_spread WHAT FILE: of seconds, a line for each kill.
print_spread() {
  sort -n "$2" |
    awk -v what="$1" '{ s[NR] = $1 } END { printf "      %s of each kill: %s s (median), %s s (worst)\n", what, s[int((NR + 1) / 2)], s[NR] }'
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
      echo "$key" >>"$directory/$1.undetermined"
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
