#!/usr/bin/env bash
# Every test and every lint of this checkout; what CI runs. Stops at the first step that fails and prints how long each
# step took.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/binaries.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/binaries.sh"

# When a test binary counts as hung.
readonly LIMIT_SECONDS=1800

# What cannot run on this machine notes it here.
skipped_tests=$(mktemp)
export RDB_SKIPPED_TESTS=$skipped_tests

timings=()
step='' step_began=0
# What each test binary prints.
test_output=$(mktemp -d)
# Where the archive of a release goes.
package=''

main() {
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap summary EXIT
  step 'set-up' prepare
  step 'format' cargo fmt --all --check
  step 'shellcheck' check_scripts
  # The end-to-end tests want the binaries beside them.
  step 'build' cargo build "${WORKSPACE[@]}"
  step 'clippy' cargo clippy "${WORKSPACE[@]}" --all-targets -- -D warnings
  step 'docs' env RUSTDOCFLAGS='-D warnings' cargo doc "${WORKSPACE[@]}" --no-deps
  step 'tests' run_tests
  step 'doctests' cargo test "${WORKSPACE[@]}" --doc
  step 'dependencies' check_dependencies
  step 'rdb-client without its workspace' scripts/client-alone.sh
  step 'verify-core.sh' scripts/verify-core.sh
  step 'verify-cluster.sh' scripts/verify-cluster.sh
  step 'verify-docs.sh' scripts/verify-docs.sh
  step 'package.sh' check_package
  step 'one build of RocksDB' check_single_rocksdb_build
}

# Every file that is a shell script, with what it sources.
check_scripts() {
  if ! command -v shellcheck >/dev/null && [[ -n ${RDB_REQUIRE_ALL_TESTS:-} ]]; then
    install_with_apt shellcheck
  elif ! command -v shellcheck >/dev/null; then
    echo 'skipped: shellcheck is not installed' >>"$skipped_tests"
    return
  fi
  shellcheck --external-sources .ci/run scripts/*.sh scripts/*/*.sh
}

# Three binaries at a time: most tests wait for most of their time. Those that take longest begin first, so that none of them is left for
# the end.
run_tests() {
  cargo test "${WORKSPACE[@]}" --no-run
  local binaries long=$'^(faults|e2e|auth)\t'
  binaries=$(test_binaries)
  (($(grep -cE "$long" <<<"$binaries") == 3)) || fail "not all test binaries are named: $binaries"
  binaries=$(grep -E "$long" <<<"$binaries" && grep -Ev "$long" <<<"$binaries")
  run_binaries 3 "$LIMIT_SECONDS" "$test_output" show <<<"$binaries"
}

# show NAME EXIT_CODE: a test binary that has ended.
show() {
  printf '\n---- %s\n' "$1"
  cat "$test_output/$1"
  (($2 == 0)) || fail "$1 failed with exit code $2"
  grep -q '^test result: ok' "$test_output/$1" || fail "$1 ended without a result"
  timings+=("ok    $(sed -n 's/^test result: ok.* finished in \(.*\)/\1/p' "$test_output/$1")  tests: $1")
}

# An application that links the client compiles neither the storage engine nor, unless it asks for it, the command line. Nobody compiles
# OpenTelemetry without the feature `otlp`, nor a cryptographic library beside `ring`.
check_dependencies() {
  refuse_packages 'rdb-client' rocksdb librocksdb-sys openraft clap rustyline tracing-subscriber metrics 'opentelemetry.*'
  refuse_packages 'rdb-client --all-features' rocksdb librocksdb-sys openraft 'opentelemetry.*' aws-lc-sys openssl-sys
  refuse_packages 'rdb-server' 'opentelemetry.*'
  refuse_packages 'rdb-pd' 'opentelemetry.*'
  refuse_packages 'rdb-server --all-features' aws-lc-sys openssl-sys
  refuse_packages 'rdb-pd --all-features' aws-lc-sys openssl-sys
}

# refuse_packages SELECTION PATTERN…: SELECTION is a package of the workspace, and flags that choose its features.
refuse_packages() {
  local selection tree pattern found
  read -ra selection <<<"$1"
  tree=$(cargo tree --package "${selection[@]}" --edges normal --prefix none --locked)
  [[ $tree == "${selection[0]} "* ]] || fail 'cargo tree does not answer as expected'
  for pattern in "${@:2}"; do
    ! found=$(grep -m 1 "^$pattern v" <<<"$tree") || fail "$1 depends on $found"
  done
}

# The archive of a release, of the programs that are there. That of a release build takes another compile of RocksDB.
check_package() {
  if ((EUID != 0)) && ! unshare --map-root-user true 2>/dev/null; then
    echo 'skipped: package.sh: needs root or user namespaces' >>"$skipped_tests"
    [[ -z ${RDB_REQUIRE_ALL_TESTS:-} ]] || fail 'package.sh needs root or user namespaces'
    return
  fi
  package=$(mktemp -d)
  scripts/package.sh --bin-dir "$CARGO_TARGET_DIR/debug" --output "$package"
}

# RocksDB is by far the longest compile. Build, test, clippy and doc share one build of it only as long as they ask for it
# with the same profile, features and flags; a change of any of these shows as a second output directory here. Cargo is
# asked which directories are in use, since the target directory may also hold those of earlier compilers and releases. With
# the flags of the steps above it compiles nothing again.
check_single_rocksdb_build() {
  local directories
  directories=$({
    cargo build "${WORKSPACE[@]}" --message-format json
    cargo clippy "${WORKSPACE[@]}" --all-targets --message-format json -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc "${WORKSPACE[@]}" --no-deps --message-format json
    cargo test "${WORKSPACE[@]}" --no-run --message-format json
  } 2>/dev/null | sed -n 's|.*"out_dir":"\([^"]*/librocksdb-sys-[^"]*\)".*|\1|p' | sort -u)
  # Two directories in one string are no directory.
  [[ -f $directories/librocksdb.a ]] ||
    fail "expected exactly one build of RocksDB, found: ${directories:-none}"
  echo "$directories"
}

# step NAME COMMAND…: under `set -e` a failing command ends the script.
step() {
  step=$1 step_began=$SECONDS
  shift
  printf '\n==== %s\n' "$step"
  "$@"
  timings+=("ok    $(minutes $((SECONDS - step_began)))  $step")
  step=''
}

minutes() {
  printf '%3d:%02d' $(($1 / 60)) $(($1 % 60))
}

summary() {
  local code=$? name
  trap '' HUP INT TERM
  if ((code > 128)); then
    # Whoever interrupts the script may want to know what hangs.
    for name in "${running[@]}"; do
      printf '\n---- %s, not done\n' "$name"
      cat "$test_output/$name"
    done
  fi
  stop_binaries
  rm -rf "$test_output"
  [[ -z $package ]] || rm -rf "$package"
  [[ -z $step ]] || timings+=("FAIL  $(minutes $((SECONDS - step_began)))  $step")
  printf '\n'
  printf '%s\n' "${timings[@]}"
  cat "$skipped_tests"
  rm -f "$skipped_tests"
  if ((code == 0)); then
    printf 'test: every step passed in%s\n' "$(minutes "$SECONDS")"
  else
    printf 'test: FAILED at %s\n' "${step:-the start}"
  fi
}

main "$@"
