# Sourced by the scripts that run test binaries themselves.
# shellcheck shell=bash

# NAME, the package's directory and the binary of each, separated by tabs. Cargo says them in JSON, one object a line. The
# programs themselves are among them; only the profile tells a test binary from the program that it tests.
test_binaries() {
  cargo test "${WORKSPACE[@]}" --no-run --message-format json 2>/dev/null |
    sed -n 's|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"name":"\([^"]*\)".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*|\2\t\1\t\3|p'
}

# Name of each binary that runs, by the id of its process.
declare -A running=()

# run_binaries PLACES SECONDS OUTPUT ENDED: runs the binaries that standard input lists as `test_binaries` does, at most PLACES at a time.
# What NAME prints goes to the file OUTPUT/NAME; once it has ended, the function ENDED is called with NAME and its exit code.
run_binaries() {
  local places=$1 seconds=$2 output=$3 ended=$4 name directory binary
  while IFS=$'\t' read -r name directory binary; do
    ((${#running[@]} < places)) || end_of_one "$ended"
    start_binary "$name" "$directory" "$binary" "$seconds" >"$output/$name" 2>&1
    running[$!]=$name
  done
  while ((${#running[@]})); do
    end_of_one "$ended"
  done
}

# end_of_one ENDED: waits until one of the binaries that run has ended.
end_of_one() {
  local process code=0 name
  { wait -n -p process "${!running[@]}" || code=$?; } 2>/dev/null
  if [[ -z ${process-} ]]; then
    # `wait -n` misses a process that a signal killed before the call. It says so once no other is left.
    read -r process _ <<<"${!running[*]}"
    code=0
    { wait "$process" || code=$?; } 2>/dev/null
  fi
  name=${running[$process]}
  unset "running[$process]"
  # Standard input may be the list that `run_binaries` reads.
  "$1" "$name" "$code" </dev/null
}

# Ends all that run.
stop_binaries() {
  ((${#running[@]} == 0)) || { kill "${!running[@]}" && wait "${!running[@]}"; } 2>/dev/null || true
}

# start_binary NAME DIRECTORY BINARY SECONDS: where cargo would run it, and in the background, so that a signal is not kept
# waiting. `$!` is then a `timeout`, which passes signals on to the binary and to the processes that it has started.
#
# `faults` makes and removes links. It does so in a network of its own where that is allowed: a browser that runs beside it, in the tests of
# pages, gives up what it loads whenever an address of its network comes or goes.
start_binary() {
  local inside=()
  if [[ $1 == faults ]] && unshare --net ip link set lo up 2>/dev/null; then
    # shellcheck disable=SC2016  # expanded by that shell
    inside=(unshare --net sh -c 'ip link set lo up && exec "$0"')
  fi
  (cd "$2" && CARGO_MANIFEST_DIR=$2 exec timeout --kill-after=15 "$4" "${inside[@]}" "$3") </dev/null &
}
