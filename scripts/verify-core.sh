#!/usr/bin/env bash
# Runs FlareDB for real and checks its main promises: builds this checkout, starts rdb-pd and rdb-server in a temporary
# directory, writes and reads through rdbctl, kills both, and reads everything back. Prints one line per step and exits 0
# only when every step held; otherwise the logs of both processes are shown. Leaves nothing behind, except what was built.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"

# How long a start or a stop may take before it counts as hung. Far above what a busy machine needs.
readonly HEALTHY_WITHIN_SECONDS=60
readonly STOPPED_WITHIN_SECONDS=15

directory=''
pd_address='' pd_pid=''
server_address='' server_pid=''
last_timestamp=0
step='set-up'

main() {
  prepare
  cargo build "${WORKSPACE[@]}"
  ignore_settings_of_the_environment

  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap finish EXIT
  directory=$(mktemp -d "${TMPDIR:-/tmp}/flaredb-verify.XXXXXX")
  head -c 100000 /dev/urandom >"$directory/bytes"

  step 'rdb-pd and rdb-server start and are healthy' start_on_free_ports
  step 'TSO: a timestamp' take_first_timestamp
  step 'TSO: a second one is greater' take_greater_timestamp
  step 'RawPut, RawGet: the value matches' put_and_get_raw
  step 'RawPut, RawGet: 100,000 random bytes match' put_and_get_bytes
  step 'CAS create: version 1' expect_swap 0 one 1
  step 'CAS update: version 2' expect_swap 1 two 2
  step 'CAS conflict: exit code 4, reports version 2' expect_conflict
  step 'SIGKILL both' kill_both
  step 'both start again and are healthy' start_again
  step 'RawGet after the crash: the value matches' expect_raw_value
  step 'RawGet after the crash: 100,000 random bytes match' expect_bytes
  step 'CAS get after the crash: version 2 and its value' expect_versioned_value
  step 'CAS update after the crash: version 3' expect_swap 2 three 3
  step 'TSO: greater than all before the crash' take_greater_timestamp
  step 'SIGTERM both: exit code 0' stop_both
  echo 'verify-core: every step held'
}

# The steps.

start_on_free_ports() {
  local attempt
  for attempt in 1 2 3 4 5; do
    pd_address="127.0.0.1:$(free_port)"
    server_address="127.0.0.1:$(free_port)"
    export RDBCTL_PD=$pd_address
    start_both
    if become_healthy; then
      return
    fi
    grep -qi 'address.* in use' "$directory"/*.log || return 1
    echo "attempt $attempt: a port was taken in the meantime" >&2
    reap_both
    rm -rf "$directory"/{pd,server,pd.log,server.log}
  done
  fail 'no free ports'
}

start_again() {
  start_both
  become_healthy
}

take_first_timestamp() {
  last_timestamp=$(rdbctl tso)
  [[ $last_timestamp =~ ^[1-9][0-9]+$ ]] || fail "not a timestamp: $last_timestamp"
}

take_greater_timestamp() {
  local timestamp
  timestamp=$(rdbctl tso)
  ((timestamp > last_timestamp)) || fail "$timestamp is not greater than $last_timestamp"
  last_timestamp=$timestamp
}

put_and_get_raw() {
  rdbctl raw put k1 v1 >/dev/null
  expect_raw_value
}

expect_raw_value() {
  expect_equal v1 "$(rdbctl raw get k1)"
}

put_and_get_bytes() {
  rdbctl raw put bytes --file "$directory/bytes" >/dev/null
  expect_bytes
}

expect_bytes() {
  rdbctl raw get bytes | cmp - "$directory/bytes"
}

# expect_swap EXPECTED_VERSION VALUE NEW_VERSION
expect_swap() {
  expect_equal "$3" "$(rdbctl cas put counter "$2" --expect "$1")"
}

expect_conflict() {
  local answer code=0
  answer=$(rdbctl cas put counter never --expect 1 --output json 2>/dev/null) || code=$?
  expect_equal 4 "$code"
  [[ $answer == *'"current_version":2,'* ]] || fail "the conflict does not report version 2: $answer"
  expect_versioned_value
}

expect_versioned_value() {
  expect_equal $'2\ttwo' "$(rdbctl cas get counter)"
}

kill_both() {
  local pid
  for pid in "$server_pid" "$pd_pid"; do
    kill -0 "$pid" || fail 'a process had ended before it was killed'
  done
  reap_both
}

stop_both() {
  kill -TERM "$server_pid" "$pd_pid"
  wait_for_exit_0 rdb-server "$server_pid"
  server_pid=''
  wait_for_exit_0 rdb-pd "$pd_pid"
  pd_pid=''
}

# What the steps are made of.

# step NAME COMMAND…: under `set -e` a failing command ends the script, and `finish` says which step it was.
step() {
  step=$1
  shift
  "$@"
  printf 'ok    %s\n' "$step"
}

expect_equal() {
  [[ $1 == "$2" ]] || fail "expected $1, got ${2:-nothing}"
}

rdbctl() {
  "$CARGO_TARGET_DIR/debug/rdbctl" "$@"
}

start_both() {
  "$CARGO_TARGET_DIR/debug/rdb-pd" --addr "$pd_address" --data-dir "$directory/pd" \
    >>"$directory/pd.log" 2>&1 &
  pd_pid=$!
  "$CARGO_TARGET_DIR/debug/rdb-server" --addr "$server_address" --advertise-addr "$server_address" \
    --pd "$pd_address" --data-dir "$directory/server" >>"$directory/server.log" 2>&1 &
  server_pid=$!
}

become_healthy() {
  local deadline=$((SECONDS + HEALTHY_WITHIN_SECONDS))
  until rdbctl health --timeout 1s >"$directory/health" 2>&1; do
    if ! kill -0 "$pd_pid" 2>/dev/null || ! kill -0 "$server_pid" 2>/dev/null; then
      echo 'a process ended instead of becoming healthy' >&2
      return 1
    fi
    if ((SECONDS >= deadline)); then
      echo "not healthy within $HEALTHY_WITHIN_SECONDS seconds:" >&2
      cat "$directory/health" >&2
      return 1
    fi
    sleep 0.2
  done
}

# wait_for_exit_0 NAME PID
wait_for_exit_0() {
  local deadline=$((SECONDS + STOPPED_WITHIN_SECONDS)) code=0
  while kill -0 "$2" 2>/dev/null; do
    ((SECONDS < deadline)) || fail "$1 still runs $STOPPED_WITHIN_SECONDS seconds after SIGTERM"
    sleep 0.1
  done
  wait "$2" || code=$?
  ((code == 0)) || fail "$1 ended with exit code $code"
}

# SIGKILL to whichever still runs. Bash would report the killed jobs on stderr.
reap_both() {
  local pid
  for pid in "$server_pid" "$pd_pid"; do
    [[ -n $pid ]] || continue
    { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
  done
  server_pid='' pd_pid=''
}

# Each program takes settings from the environment, too; this run is about the defaults.
ignore_settings_of_the_environment() {
  local name
  for name in "${!RDB_PD_@}" "${!RDB_SERVER_@}" "${!RDBCTL_@}"; do
    unset "$name"
  done
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  case $code in
    0) ;;
    129 | 130 | 143) echo 'verify-core: interrupted' >&2 ;;
    *)
      printf 'FAIL  %s\n' "$step"
      show_logs >&2
      ;;
  esac
  reap_both
  rm -rf "$directory"
  exit "$code"
}

show_logs() {
  local log
  for log in "$directory"/*.log; do
    [[ -s $log ]] || continue
    printf -- '---- the end of %s\n' "$(basename "$log")"
    tail -n 100 "$log"
  done
}

main "$@"
