# Sourced by bench.sh: starting and stopping the processes that are measured. Each is known by a name; its log is
# logs/NAME, its data disk/NAME in the directory of the run.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # they share the variables of bench.sh

# How long a start or a stop may take before it counts as hung.
readonly READY_WITHIN_SECONDS=60
readonly STOPPED_WITHIN_SECONDS=30

declare -A pids=() server_addresses=()
readonly REPLICAS=(1 2 3)
pd_address='' echo_address='' etcd_address='' redis_port=''
declare -A etcd_addresses=()

has_etcd() {
  command -v etcd >/dev/null
}

has_redis() {
  command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null && command -v redis-cli >/dev/null
}

start_everything() {
  start_cluster main
  start_echo
  if has_etcd; then start_etcd; else echo 'etcd is not installed: going without (apt-get install etcd-server)' >&2; fi
  if has_redis; then start_redis; else echo 'Redis is not installed: going without (apt-get install redis-server)' >&2; fi
}

# start_cluster NAME [SERVER_FLAG…]: a placement driver and a store, and nothing else for rdbctl to talk to.
start_cluster() {
  start_placement_driver "$1"
  start_server "$@"
}

# start_placement_driver NAME: that of the cluster of this name.
start_placement_driver() {
  pd_address=127.0.0.1:$(free_port)
  server_addresses[$1]=127.0.0.1:$(free_port)
  export RDBCTL_PD=$pd_address
  start "pd-$1" "$binaries/rdb-pd" --addr "$pd_address" --data-dir "$directory/disk/pd-$1"
}

# start_server NAME [SERVER_FLAG…]: where it was before.
start_server() {
  launch_server "$@"
  wait_until "the cluster $1 serves" rdbctl health --timeout 1s
}

launch_server() {
  local address=${server_addresses[$1]}
  start "server-$1" "$binaries/rdb-server" --addr "$address" --advertise-addr "$address" --pd "$pd_address" \
    --data-dir "$directory/disk/server-$1" "${@:2}"
}

# start_replicated_cluster [SERVER_FLAG…]: three stores with a replica each of the first region.
start_replicated_cluster() {
  local number
  pd_address=127.0.0.1:$(free_port)
  export RDBCTL_PD=$pd_address
  start pd-replicated "$binaries/rdb-pd" --addr "$pd_address" --data-dir "$directory/disk/pd-replicated" \
    --initial-replicas "${#REPLICAS[@]}"
  for number in "${REPLICAS[@]}"; do
    server_addresses[replicated-$number]=127.0.0.1:$(free_port)
    launch_server "replicated-$number" "$@"
  done
  wait_until 'the three stores serve' rdbctl health --timeout 1s
}

stop_replicated_cluster() {
  local number
  for number in "${REPLICAS[@]}"; do
    stop "server-replicated-$number"
  done
  stop pd-replicated
  rm -rf "$directory/disk"/{pd,server}-replicated*
}

stop_cluster() {
  stop "server-$1"
  stop "pd-$1"
  rm -rf "$directory/disk"/{pd,server}-"$1"
}

start_echo() {
  # It ends with its standard input, and that with this script, however the script ends.
  "$binaries/rdbctl" bench serve-echo < <(tail -f /dev/null --pid=$$) >>"$directory/logs/echo" 2>&1 &
  pids[echo]=$!
  wait_until 'the echo server listens' grep -q : "$directory/logs/echo"
  echo_address=$(head -n 1 "$directory/logs/echo")
}

start_etcd() {
  local peer_address
  etcd_addresses[etcd]=127.0.0.1:$(free_port)
  peer_address=127.0.0.1:$(free_port)
  launch_etcd etcd "$peer_address" "etcd=http://$peer_address"
  etcd_address=${etcd_addresses[etcd]}
  wait_until 'etcd answers' etcd_answers "$etcd_address"
}

start_replicated_etcd() {
  local number peer_addresses=() members=()
  for number in "${REPLICAS[@]}"; do
    etcd_addresses[etcd-$number]=127.0.0.1:$(free_port)
    peer_addresses[number]=127.0.0.1:$(free_port)
    members+=("etcd-$number=http://${peer_addresses[number]}")
  done
  for number in "${REPLICAS[@]}"; do
    launch_etcd "etcd-$number" "${peer_addresses[number]}" "$(IFS=,; printf '%s' "${members[*]}")"
  done
  for number in "${REPLICAS[@]}"; do
    wait_until "node $number of etcd answers" etcd_answers "${etcd_addresses[etcd-$number]}"
  done
}

stop_replicated_etcd() {
  local number
  for number in "${REPLICAS[@]}"; do
    stop "etcd-$number"
    rm -rf "${directory:?}/disk/etcd-$number"
  done
}

# launch_etcd NAME PEER_ADDRESS MEMBERS
launch_etcd() {
  local address=${etcd_addresses[$1]}
  start "$1" etcd --name "$1" --data-dir "$directory/disk/$1" \
    --listen-client-urls "http://$address" --advertise-client-urls "http://$address" \
    --listen-peer-urls "http://$2" --initial-advertise-peer-urls "http://$2" \
    --initial-cluster "$3"
}

# etcd_answers ADDRESS
etcd_answers() {
  rdbctl bench raw-put --target etcd --endpoint "$1" --timeout 2s --concurrency 1 --duration 10ms --warmup 0
}

start_redis() {
  mkdir -p "$directory/disk/redis"
  redis_port=$(free_port)
  start redis redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$directory/disk/redis" --daemonize no \
    --save '' --appendonly yes --appendfsync always
  wait_until 'Redis answers' redis_answers
}

# Not by redis-benchmark, which spins for ever when it comes too early.
redis_answers() {
  [[ $(redis-cli -p "$redis_port" ping) == PONG ]]
}

# The limits, the disk and the engine, need no process, and later sections bring clusters of their own.
stop_databases() {
  stop_cluster main
  local name
  for name in echo etcd redis; do
    stop "$name"
    rm -rf "${directory:?}/disk/$name"
  done
}

# start NAME COMMAND…
start() {
  "${@:2}" >>"$directory/logs/$1" 2>&1 &
  pids[$1]=$!
}

# kill_server NAME: SIGKILL. It can be launched again.
kill_server() {
  local pid=${pids[server-$1]}
  unset "pids[server-$1]"
  { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
}

# stop NAME: SIGTERM, and SIGKILL when that does not help. One that does not run is no error.
stop() {
  local pid=${pids[$1]:-} deadline=$((SECONDS + STOPPED_WITHIN_SECONDS))
  [[ -n $pid ]] || return 0
  unset "pids[$1]"
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

stop_everything() {
  local name
  for name in "${!pids[@]}"; do
    stop "$name"
  done
}

# wait_until WHAT COMMAND…
wait_until() {
  local deadline=$((SECONDS + READY_WITHIN_SECONDS)) name
  until "${@:2}" >"$directory/logs/waiting" 2>&1; do
    for name in "${!pids[@]}"; do
      kill -0 "${pids[$name]}" 2>/dev/null || fail "$name ended while waiting until $1"
    done
    if ((SECONDS >= deadline)); then
      cat "$directory/logs/waiting" >&2
      fail "not within $READY_WITHIN_SECONDS seconds: $1"
    fi
    sleep 0.2
  done
}
