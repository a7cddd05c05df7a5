#!/usr/bin/env bash
# Runs what README.md and docs/*.md say to type: each block of shell commands as it stands there, with the programs of this checkout, in
# temporary directories, and in a network of its own, where the default ports are free. Each command of a block has to succeed, or to fail
# as the comment on its line says: `refused: exit code 4`. A block that is neither run nor listed as one that cannot be run here fails the
# script, and so does a listed one that is gone. Prints one line per group of blocks; after a failure also what was typed and printed.
# Leaves nothing behind, except what was built.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/verify.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/verify.sh"

# Blocks that are not run, by how their first line begins, and why.
# shellcheck disable=SC2016  # as it stands in the documents
declare -rA NOT_RUN=(
  ['scripts/verify-core.sh']='steps of test.sh, as this script is one'
  ['scripts/bench.sh']='takes half an hour'
  ['install -m 755 bin/rdb-server']='changes the machine, needs systemd'
  ['(cd "${CARGO_TARGET_DIR:-target}/release"']='changes the machine'
  ['systemctl stop rdb-server']='needs the units of systemd'
  ['systemctl stop rdb-pd']='needs the units of systemd'
  ['systemctl restart rdb-pd']='needs the units of systemd'
  ['cargo run -p rdb-client']='compiles the client anew; the end-to-end tests run this program'
  ['# raw_put and raw_get of 256 callers']='compiles RocksDB anew, and measures'
)

# How a line says that its command has to fail.
readonly REFUSED='(refused|not allowed)[,:] exit code ([1-9])'

# How long a session may take before it counts as hung.
readonly SESSION_SECONDS=600

# Of processes that have a terminal of their own: their ids, by command.
declare -A terminals=()
checkout=''

main() {
  if [[ ${1-} != --in-network ]]; then
    prepare
    # It may have to fetch something.
    cargo build "${WORKSPACE[@]}"
    enter_network
  fi
  export CARGO_NET_OFFLINE=true
  begin_verification
  checkout=$PWD
  CARGO_TARGET_DIR=$(realpath "$CARGO_TARGET_DIR")
  take_blocks

  session one_store
  session three_stores
  session everyday
  session settings
  session alert_rules
  session own_ca
  session several_machines
  session secured
  step 'every block is run or listed' every_block_has_its_place
  echo 'verify-docs: every block works'
}

# Goes on in a network namespace, if that is allowed and all is there that blocks need.
enter_network() {
  local tool unshare=(unshare --net)
  ((EUID == 0)) || unshare+=(--map-root-user)
  for tool in curl openssl promtool python3; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
  done
  "${unshare[@]}" ip link set lo up 2>/dev/null || skip 'needs ip, and root or user namespaces'
  # shellcheck disable=SC2016  # expanded by that shell
  exec "${unshare[@]}" sh -c 'ip link set lo up && exec "$0" --in-network' scripts/verify-docs.sh
}

# skip WHY: ends the script.
skip() {
  [[ -z ${RDB_REQUIRE_ALL_TESTS:-} ]] || fail "$1"
  echo "skipped: verify-docs.sh: $1" | tee -a "${RDB_SKIPPED_TESTS:-/dev/null}"
  exit 0
}

# Each block becomes a file, named after its document and the line where it begins.
take_blocks() {
  mkdir "$directory/blocks"
  : >"$directory/placed"
  awk -v blocks="$directory/blocks" '
    /^ *```sh$/ { name = FILENAME; gsub("/", "-", name); block = blocks "/" name ":" FNR; next }
    /^ *```/ { block = ""; next }
    block != "" { print > block }' README.md docs/*.md
}

# The sessions: each is somebody who follows a document, in a shell and an empty directory.

one_store() {
  run 'export CARGO_TARGET_DIR='
  # The block has told them to.
  expect_ends
}

three_stores() {
  local left code=0
  type_lines 'rdb-pd --data-dir data/three/pd'
  type_lines 'rdb-server --data-dir data/three/4'
  wait_until 'the store that was taken away ends' one_has_left
  wait "${terminals[$left]}" || code=$?
  expect_equal 3 "$code"
}

everyday() {
  local hash
  export RDB_SERVER_AUDIT_LOG=audit.log RDB_SERVER_AUDIT_WRITES=true
  rdb-pd &
  rdb-server &
  become_healthy
  rdbctl raw put user/ada 36
  type_lines 'rdbctl status'
  wait_until 'the screen is shown again' is_shown_again
  interrupt 'rdbctl status --watch'
  run 'rdbctl raw export users.jsonl'
  run 'rdbctl shell'
  run 'curl -s http://127.0.0.1:21160/health'
  rdbctl raw put app/k1 v1
  run 'printf %s app/k1' >key-hash
  hash=$(tail -n 1 key-hash)
  wait_until 'the audit log has the hash' grep -q "\"key_hash\":\"$hash\"" audit.log
}

settings() {
  run 'rdb-server --print-config'
}

alert_rules() {
  ln -s "$checkout/docs" docs
  run 'cd docs/monitoring'
}

own_ca() {
  run 'openssl req -x509'
  openssl verify -CAfile ca.pem server.pem
}

several_machines() {
  run 'rdbctl cert dev --host'
  openssl verify -CAfile tls/ca.pem tls-store-1/server.pem
}

secured() {
  run 'rdbctl cert dev --dir tls'
  run 'rdbctl auth user add ada'
  run 'rdbctl auth user token ada --add'
  # Its answer gets lost.
  rdbctl auth user token ada --add >/dev/null
  run 'rdbctl auth user token ada --drop-new'
  rdbctl --token-file ada.token raw get app/k1
  run 'rdbctl cert dev --dir renewed'
  run 'rdbctl cert dev --dir next'
  rdbctl raw get greeting
  run 'kill %rdb-pd'
  rdbctl auth user list
}

# What the sessions are made of.

# session NAME: what it types and prints is in NAME.log.
session() {
  mkdir "$directory/$1"
  step "$1" in_own_shell "$1"
  rm "$directory/$1.log"
}

in_own_shell() (
  exec </dev/null >"$directory/$1.log" 2>&1
  trap kill_jobs EXIT
  cd "$directory/$1"
  PATH=$CARGO_TARGET_DIR/debug:$PATH
  unset -f rdbctl
  local session_deadline=$((SECONDS + SESSION_SECONDS))
  # What blocks call it for is the checkout.
  # shellcheck disable=SC2317  # blocks call it
  cargo() (cd "$checkout" && command cargo "$@")
  # So a block that waits for something does not wait for good.
  # shellcheck disable=SC2317  # blocks call it
  sleep() {
    ((SECONDS < session_deadline)) || fail "not done within $SESSION_SECONDS seconds"
    command sleep "$@"
  }
  "$1"
  end_jobs
)

# block BEGINNING: the file of the block whose first line begins so. It has its place now.
block() {
  local file line found=()
  for file in "$directory"/blocks/*; do
    IFS= read -r line <"$file"
    [[ $line != "$1"* ]] || found+=("$file")
  done
  ((${#found[@]} == 1)) || fail "${#found[@]} blocks begin with: $1"
  echo "${found[0]}" >>"$directory/placed"
  echo "${found[0]}"
}

every_block_has_its_place() {
  local beginning file
  for beginning in "${!NOT_RUN[@]}"; do
    file=$(block "$beginning")
    printf '      %s is not run: %s\n' "$(basename "$file")" "${NOT_RUN[$beginning]}"
  done
  for file in "$directory"/blocks/*; do
    grep -qxF "$file" "$directory/placed" ||
      fail "$(basename "$file") is neither run nor in the list of $(basename "$0"): $(head -n 1 "$file")"
  done
}

# run BEGINNING: runs a block in this shell, which has the settings that a shell has by itself meanwhile.
run() {
  local block code refusals=0
  block=$(block "$1")
  cat "$block"
  set +euo pipefail -E
  trap 'judge "$?" "${BASH_SOURCE[0]}" "$LINENO"' ERR
  # shellcheck source=/dev/null
  source "$block"
  code=$?
  trap - ERR
  set -euo pipefail +E
  # Also a list that ended early.
  ((code == 0)) || fail "exit code $code of the last command"
  (($(grep -cE "$REFUSED" "$block") == refusals)) || fail 'a command succeeded that is to be refused'
}

# judge CODE FILE LINE: a command there has failed.
judge() {
  local line
  # Of the block as a whole, its exit code is looked at later.
  [[ $2 == "$block" ]] || return 0
  line=$(sed -n "$3p" "$block")
  if [[ $line =~ $REFUSED ]] && ((BASH_REMATCH[2] == $1)); then
    refusals=$((refusals + 1))
  else
    fail "exit code $1 of: $line"
  fi
}

# type_lines BEGINNING: types a block line by line. What runs until it is interrupted has a terminal of its own. If the same runs already, it
# is interrupted there before.
type_lines() {
  local block lines line words command is_new=no
  block=$(block "$1")
  mapfile -t lines <"$block"
  for line in "${lines[@]}"; do
    printf '%s\n' "$line"
    read -ra words <<<"${line%%#*}"
    command=${words[*]}
    if [[ $command == rdb-* || $command == *--watch ]]; then
      [[ -z ${terminals[$command]-} ]] || interrupt "$command"
      eval "exec $line" &
      terminals[$command]=$!
      is_new=yes
    else
      [[ $is_new == no ]] || wait_until 'all stores are up' all_are_up
      [[ $is_new == no ]] || become_healthy
      is_new=no
      eval "$line"
    fi
  done
}

# One of the terminals is that of the placement driver.
all_are_up() {
  (($(rdbctl store list --output json 2>/dev/null | grep -c '"state":"up"') == ${#terminals[@]} - 1))
}

is_shown_again() {
  (($(grep -c '^PLACEMENT DRIVER' "$directory/everyday.log") > 2))
}

# Notes the command of a process that has ended by itself.
one_has_left() {
  for left in "${!terminals[@]}"; do
    ! has_ended "${terminals[$left]}" || return 0
  done
  return 1
}

# interrupt COMMAND: Ctrl-C in its terminal.
interrupt() {
  kill -INT "${terminals[$1]}"
  expect_end "${terminals[$1]}"
  unset "terminals[$1]"
}

# Ctrl-C for all that a session has left running.
end_jobs() {
  local job
  for job in $(jobs -p); do
    kill -INT "$job" 2>/dev/null || true
  done
  expect_ends
}

expect_ends() {
  local job
  for job in $(jobs -p); do
    expect_end "$job"
  done
}

# expect_end PROCESS: with exit code 0.
expect_end() {
  local code=0
  wait_until 'what was told to end ends' has_ended "$1"
  wait "$1" || code=$?
  expect_equal 0 "$code"
}

has_ended() {
  ! kill -0 "$1" 2>/dev/null
}

kill_jobs() {
  local job
  for job in $(jobs -p); do
    kill -KILL "$job" 2>/dev/null || true
  done
}

main "$@"
