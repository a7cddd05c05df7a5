#!/usr/bin/env bash
# Runs FlareDB for real and checks its main promises: builds this checkout, starts rdb-pd and rdb-server in a temporary
# directory, writes and reads through rdbctl, kills both, and reads everything back. Prints one line per step and exits 0
# only when every step held; otherwise the logs of both processes are shown. Leaves nothing behind, except what was built.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"

# shellcheck source=scripts/lib/verify.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/verify.sh"

last_timestamp=0

main() {
  begin_verification
  head -c 100000 /dev/urandom >"$directory/bytes"

  step 'rdb-pd and rdb-server start and are healthy' start_on_free_ports start_both pd server
  step 'the status pages of both are 1000 ports further' expect_status_pages
  step 'TSO: a timestamp' take_first_timestamp
  step 'TSO: a second one is greater' take_greater_timestamp
  step 'RawPut, RawGet: the value matches' put_and_get_raw
  step 'RawPut, RawGet: 100,000 random bytes match' put_and_get_bytes
  step 'CAS create: version 1' expect_swap 0 one 1
  step 'CAS update: version 2' expect_swap 1 two 2
  step 'CAS conflict: exit code 4, reports version 2' expect_conflict
  step 'SIGKILL both' sigkill server pd
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

start_both() {
  start pd rdb-pd
  start server rdb-server --advertise-addr "$(address_of server)" --pd "$(address_of pd)"
}

start_again() {
  start_both
  become_healthy
}

expect_status_pages() {
  local name host port answer
  for name in pd server; do
    IFS=: read -r host port <<<"$(address_of "$name")"
    exec {pages}<>"/dev/tcp/$host/$((port + 1000))"
    printf 'GET /ready HTTP/1.1\r\nhost: %s\r\n\r\n' "$host" >&"$pages"
    # They close the connection behind an answer.
    answer=$(cat <&"$pages")
    exec {pages}>&-
    [[ $answer == 'HTTP/1.1 200 '* ]] || fail "/ready of $name: ${answer:-nothing}"
  done
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

# A store needs no placement driver to stop.
stop_both() {
  stop server
  stop pd
}

main "$@"
