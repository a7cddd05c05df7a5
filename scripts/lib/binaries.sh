# Sourced by the scripts that run test binaries themselves.
# shellcheck shell=bash

# NAME, the package's directory and the binary of each, separated by tabs. Cargo says them in JSON, one object a line. The
# programs themselves are among them; only the profile tells a test binary from the program that it tests.
test_binaries() {
  cargo test "${WORKSPACE[@]}" --no-run --message-format json 2>/dev/null |
    sed -n 's|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"name":"\([^"]*\)".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*|\2\t\1\t\3|p'
}

# start_binary DIRECTORY BINARY SECONDS: where cargo would run it, and in the background, so that a signal is not kept
# waiting. `$!` is then a `timeout`, which passes signals on to the binary and to the processes that it has started.
start_binary() {
  (cd "$1" && CARGO_MANIFEST_DIR=$1 exec timeout --kill-after=15 "$3" "$2") </dev/null &
}
