# Sourced by the scripts that run a cluster for real and check what it promises: steps, processes by name, and an end that
# leaves nothing behind.
# shellcheck shell=bash

# How long a start, a stop or anything else may take before it counts as hung. Far above what a busy machine needs.
readonly HEALTHY_WITHIN_SECONDS=60
readonly STOPPED_WITHIN_SECONDS=15
readonly DONE_WITHIN_SECONDS=120

# Where everything is: of each process NAME its data in NAME, its output in NAME.log, its address in NAME.address, and while it
# runs its id in NAME.pid.
directory=''
step='set-up'

# Builds the checkout, and sees to the end of the script. Prints the name of the step that failed, and the logs.
begin_verification() {
  prepare
  cargo build "${WORKSPACE[@]}"
  ignore_settings_of_the_environment
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap finish EXIT
  directory=$(mktemp -d "${TMPDIR:-/tmp}/flaredb-verify.XXXXXX")
}

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

# wait_until WHAT COMMAND…
wait_until() {
  local what=$1 deadline=$((SECONDS + DONE_WITHIN_SECONDS))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || fail "$what: not within $DONE_WITHIN_SECONDS seconds"
    sleep 0.1
  done
}

rdbctl() {
  "$CARGO_TARGET_DIR/debug/rdbctl" "$@"
}

# start_on_free_ports START NAME…: START starts the processes of these names, of which `pd` is one, each at its address.
start_on_free_ports() {
  local start=$1 attempt name
  shift
  for attempt in 1 2 3 4 5; do
    for name in "$@"; do
      echo "127.0.0.1:$(free_port)" >"$directory/$name.address"
    done
    RDBCTL_PD=$(address_of pd)
    export RDBCTL_PD
    "$start"
    if become_healthy && ! grep -q 'there are no status pages' "$directory"/*.log; then
      return
    fi
    grep -qi 'address.* in use' "$directory"/*.log || return 1
    echo "attempt $attempt: a port was taken in the meantime" >&2
    reap_all
    for name in "$@"; do
      rm -rf "${directory:?}/$name" "$directory/$name.log"
    done
  done
  fail 'no free ports'
}

# start NAME PROGRAM FLAG…
start() {
  local name=$1 program=$2
  shift 2
  "$CARGO_TARGET_DIR/debug/$program" --addr "$(address_of "$name")" --data-dir "$directory/$name" "$@" \
    >>"$directory/$name.log" 2>&1 &
  echo $! >"$directory/$name.pid"
}

address_of() {
  cat "$directory/$1.address"
}

pid_of() {
  cat "$directory/$1.pid"
}

# The names of all that were started and not ended, one a line.
running() {
  local file
  for file in "$directory"/*.pid; do
    [[ ! -e $file ]] || basename "$file" .pid
  done
}

become_healthy() {
  local deadline=$((SECONDS + HEALTHY_WITHIN_SECONDS)) name
  until rdbctl health --timeout 1s >"$directory/health" 2>&1; do
    for name in $(running); do
      if ! kill -0 "$(pid_of "$name")" 2>/dev/null; then
        echo "$name ended instead of becoming healthy" >&2
        return 1
      fi
    done
    if ((SECONDS >= deadline)); then
      echo "not healthy within $HEALTHY_WITHIN_SECONDS seconds:" >&2
      cat "$directory/health" >&2
      return 1
    fi
    sleep 0.2
  done
}

# sigkill NAME…: it must still run. Bash would report the killed jobs on stderr.
sigkill() {
  local name
  for name in "$@"; do
    kill -0 "$(pid_of "$name")" || fail "$name had ended before it was killed"
  done
  for name in "$@"; do
    reap "$name"
  done
}

# stop NAME…: SIGTERM to all at once; each has to end with exit code 0.
stop() {
  local name
  for name in "$@"; do
    kill -TERM "$(pid_of "$name")"
  done
  for name in "$@"; do
    wait_for_exit_0 "$name" "$STOPPED_WITHIN_SECONDS"
  done
}

# wait_for_exit_0 NAME SECONDS: after it was told to end.
wait_for_exit_0() {
  local pid deadline=$((SECONDS + $2)) code=0
  pid=$(pid_of "$1")
  while kill -0 "$pid" 2>/dev/null; do
    ((SECONDS < deadline)) || fail "$1 still runs $2 seconds after it was told to end"
    sleep 0.1
  done
  wait "$pid" || code=$?
  ((code == 0)) || fail "$1 ended with exit code $code"
  rm "$directory/$1.pid"
}

# SIGKILL, if it still runs.
reap() {
  local pid
  pid=$(pid_of "$1")
  { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
  rm "$directory/$1.pid"
}

reap_all() {
  local name
  for name in $(running); do
    reap "$name"
  done
}

# Each program takes settings from the environment, too; a verification is about the defaults.
ignore_settings_of_the_environment() {
  local name
  for name in "${!RDB_PD_@}" "${!RDB_SERVER_@}" "${!RDBCTL_@}"; do
    unset "$name"
  done
  unset NOTIFY_SOCKET
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  case $code in
    0) ;;
    129 | 130 | 143) echo "$(basename "$0" .sh): interrupted" >&2 ;;
    *)
      printf 'FAIL  %s\n' "$step"
      show_logs >&2
      ;;
  esac
  reap_all
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
