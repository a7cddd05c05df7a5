# Sourced by bench.sh: what is measured, under the names that the example `bench_summary` knows.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # they share the variables of bench.sh

# Keys that are not cached: many more than the block cache of that store holds.
readonly COLD_CACHE_MIB=8
readonly COLD_KEYS=1000000
readonly COLD_KEYS_QUICK=20000

# redis-benchmark takes a number of requests, not a time.
readonly REDIS_WITHIN_SECONDS=300

readonly MEMORY_KEYS=10000000
readonly MEMORY_KEYS_QUICK=100000
readonly MEMORY_VALUE_BYTES=100
readonly MEMORY_READ_SECONDS=30
readonly COMPACTED_WITHIN_SECONDS=900

readonly TRANSFER_KEYS=1000000
readonly TRANSFER_KEYS_QUICK=20000

# What a store misses, and the most that the others keep of their log for it: it needs a snapshot.
readonly BEHIND_MIB=1024
readonly BEHIND_MIB_QUICK=256
readonly BEHIND_VALUE_BYTES=65536
readonly CAUGHT_UP_WITHIN_SECONDS=300

# What the reading workloads find, which then need not write it each time.
load_everything() {
  printf '== loading\n'
  rdbctl bench load --keys "$keys" >/dev/null
  rdbctl bench cas --keys "$keys" --duration 10ms --warmup 0 >/dev/null
  ! has_etcd || rdbctl bench load --keys "$keys" --target etcd --endpoint "$etcd_address" >/dev/null
}

# measure_round ROUND: everything once.
measure_round() {
  local round=$1 callers
  keep fdatasync "$round" limits fdatasync "$directory/disk" "$seconds"
  for callers in 1 64 256; do
    keep "storage-$callers" "$round" limits storage "$directory/disk" "$seconds" "$callers"
    keep "empty-$callers" "$round" bench empty-call --endpoint "$echo_address" --concurrency "$callers"
    keep "put-$callers" "$round" bench raw-put --keys "$keys" --concurrency "$callers"
    keep "put-unary-$callers" "$round" bench raw-put --keys "$keys" --concurrency "$callers" --unary
    ! has_etcd || keep "etcd-put-$callers" "$round" bench raw-put --keys "$keys" --concurrency "$callers" \
      --target etcd --endpoint "$etcd_address"
  done
  for callers in 64 256; do
    keep "get-$callers" "$round" bench raw-get --keys "$keys" --concurrency "$callers" --no-load
    keep "get-unary-$callers" "$round" bench raw-get --keys "$keys" --concurrency "$callers" --no-load --unary
    ! has_etcd || keep "etcd-get-$callers" "$round" bench raw-get --keys "$keys" --concurrency "$callers" --no-load \
      --target etcd --endpoint "$etcd_address"
  done
  keep get-256-idle "$round" bench raw-get --keys "$keys" --concurrency 256 --no-load --idle-connections 1000
  keep put-256-idle "$round" bench raw-put --keys "$keys" --concurrency 256 --idle-connections 1000
  keep cas-1 "$round" bench cas --keys "$keys" --concurrency 1
  keep cas-256 "$round" bench cas --keys "$keys" --concurrency 256
  keep cas-hot-64 "$round" bench cas-hot --concurrency 64
  keep echo-stream "$round" bench echo-stream --endpoint "$echo_address" --concurrency 1000
  keep tso-stream "$round" bench tso-stream --concurrency 1000
  keep tso-1000 "$round" bench tso --concurrency 1000
  keep scan-64 "$round" bench scan --keys "$keys" --concurrency 64 --no-load
  keep ycsb-a-256 "$round" bench ycsb-a --keys "$keys" --concurrency 256 --no-load
  keep ycsb-b-256 "$round" bench ycsb-b --keys "$keys" --concurrency 256 --no-load
  keep ycsb-c-256 "$round" bench ycsb-c --keys "$keys" --concurrency 256 --no-load
  ! has_redis || measure_redis "$round"
}

# measure_single_caller ROUND: these two differ by little, so they have more rounds, directly one after the other.
measure_single_caller() {
  keep get-1 "$1" bench raw-get --keys "$keys" --concurrency 1 --no-load
  keep get-unary-1 "$1" bench raw-get --keys "$keys" --concurrency 1 --no-load --unary
}

measure_redis() {
  local requests=25000
  [[ $quick == no ]] || requests=4000
  # About as long as the other measurements take, at the speeds that were seen so far.
  keep_redis redis-set-64 "$1" 1 $((requests * seconds))
  keep_redis redis-set-64-pipelined "$1" 16 $((requests * seconds * 5))
}

# keep_redis NAME ROUND PIPELINE REQUESTS: as the other measurements leave it.
keep_redis() {
  printf '   %s\n' "$1"
  mkdir -p "$directory/runs/$1"
  timeout "$REDIS_WITHIN_SECONDS" redis-benchmark -p "$redis_port" -t set -d 128 -c 64 -r 100000 -P "$3" -n "$4" --csv 2>>"$directory/logs/redis-benchmark" |
    awk -F '","|"' -v requests="$4" '$2 == "SET" {
      printf "{\"workload\":\"set\",\"target\":\"redis\",\"concurrency\":64,\"operations\":%d,", requests
      printf "\"operations_per_second\":%s,\"latency_us\":{\"mean\":%.0f,\"p50\":%.0f,\"p99\":%.0f,\"max\":%.0f}}\n", \
        $3, $4 * 1000, $6 * 1000, $8 * 1000, $9 * 1000
    }' >"$directory/runs/$1/$2.json"
  [[ -s $directory/runs/$1/$2.json ]] || fail "redis-benchmark reported no SET for $1"
}

# Puts that are due at half of the rate that etcd reached at best.
measure_half_of_peak() {
  has_etcd || return 0
  local peak half round
  peak=$(for name in etcd-put-64 etcd-put-256; do median_per_second "$name"; done | sort -n | tail -n 1)
  half=$((peak / 2))
  for ((round = 1; round <= rounds; round++)); do
    keep etcd-put-half "$round" bench raw-put --keys "$keys" --rate "$half" --concurrency 256 --target etcd --endpoint "$etcd_address"
    keep put-half "$round" bench raw-put --keys "$keys" --rate "$half" --concurrency 256
  done
}

# median_per_second NAME: over its rounds, the lower of the middle two, as a whole number.
median_per_second() {
  sed -n 's/.*"operations_per_second":\([0-9]*\).*/\1/p' "$directory/runs/$1"/*.json |
    sort -n | awk '{ figures[NR] = $1 } END { print figures[int((NR + 1) / 2)] }'
}

measure_hot_key_for_long() {
  local length=30s
  [[ $quick == no ]] || length=3s
  keep "cas-hot-64-$length" 1 bench cas-hot --concurrency 64
}

# A put is acknowledged by two of three. etcd is called at the node that answers most puts: its leader, to which others forward.
measure_three_stores() {
  local round etcd=''
  start_replicated_cluster
  rdbctl bench load --keys "$keys" >/dev/null
  if has_etcd; then
    start_replicated_etcd
    etcd=$(fastest_etcd_node)
    rdbctl bench load --keys "$keys" --target etcd --endpoint "$etcd" >/dev/null
  fi
  for ((round = 1; round <= rounds; round++)); do
    measure_three_puts 1 "$round" "$etcd"
    measure_three_puts 256 "$round" "$etcd"
    keep get-256-three "$round" bench raw-get --keys "$keys" --concurrency 256 --no-load
    [[ -z $etcd ]] || keep etcd-get-256-three "$round" bench raw-get --keys "$keys" --concurrency 256 --no-load \
      --target etcd --endpoint "$etcd"
  done
  stop_replicated_etcd
  stop_replicated_cluster
}

# measure_three_puts CALLERS ROUND ETCD_ADDRESS
measure_three_puts() {
  keep_with_processor_time "put-$1-three" "$2" "${REPLICAS[*]/#/server-replicated-}" bench raw-put --keys "$keys" --concurrency "$1"
  [[ -z $3 ]] || keep "etcd-put-$1-three" "$2" bench raw-put --keys "$keys" --concurrency "$1" --target etcd --endpoint "$3"
}

# One of three stores is away while the others take what a snapshot is needed for. Then it comes back. Puts of before and after that
# are compared, and the most memory that the leader has meanwhile.
measure_store_behind() {
  local mib=$BEHIND_MIB length=2s warmup=0 leader away round leader_pid sampler began
  [[ $quick == no ]] || mib=$BEHIND_MIB_QUICK length=1s
  start_replicated_cluster --raft-log-mib-max $((mib / 2))
  wait_until 'a store leads' note_leading_replica
  away=$((leader % ${#REPLICAS[@]} + 1))
  leader_pid=${pids[server-replicated-$leader]}
  kill_server "replicated-$away"
  rdbctl bench load --keys $((mib * 1048576 / BEHIND_VALUE_BYTES)) --value-size "$BEHIND_VALUE_BYTES" --timeout 1m >/dev/null

  sample_memory "$leader_pid" >"$directory/memory-away" &
  sampler=$!
  for ((round = 1; round <= 5; round++)); do
    keep put-256-away "$round" bench raw-put --keys "$keys" --concurrency 256
  done
  end_sampling "$sampler"

  sample_memory "$leader_pid" >"$directory/memory-behind" &
  sampler=$!
  began=$SECONDS
  : >"$directory/logs/server-replicated-$away"
  launch_server "replicated-$away" --raft-log-mib-max $((mib / 2))
  for ((round = 1; round == 1 || SECONDS < began + CAUGHT_UP_WITHIN_SECONDS; round++)); do
    keep put-256-behind "$round" bench raw-put --keys "$keys" --concurrency 256
    ! has_received_snapshot "$away" || break
  done
  end_sampling "$sampler"
  wait_until 'a store leads' note_leading_replica
  [[ ${pids[server-replicated-$leader]} == "$leader_pid" ]] || fail 'another store leads than the one that was measured'
  has_received_snapshot "$away" || fail "store $away had no snapshot within $CAUGHT_UP_WITHIN_SECONDS seconds"
  wait_until 'all replicas hold the same data' rdbctl region check --timeout 1m
  keep_catch_up
  stop_replicated_cluster
}

note_leading_replica() {
  local address number
  leader=''
  address=$(rdbctl region list --output json | sed -n 's/.*"leader":{"store_id":[0-9]*,"address":"\([^"]*\)".*/\1/p')
  for number in "${REPLICAS[@]}"; do
    [[ ${server_addresses[replicated-$number]} != "$address" ]] || leader=$number
  done
  [[ -n $leader ]]
}

has_received_snapshot() {
  grep -q 'a snapshot was received' "$directory/logs/server-replicated-$1"
}

# sample_memory PID: its anonymous KiB, ten times a second until it ends.
sample_memory() {
  while sed -n 's/^RssAnon:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$1/status" 2>/dev/null; do
    sleep 0.1
  done
}

end_sampling() {
  { kill "$1" && wait "$1"; } 2>/dev/null || true
}

keep_catch_up() {
  local away behind
  [[ -s $directory/memory-away && -s $directory/memory-behind ]] || fail 'the memory of the leader was not measured'
  away=$(sort -n "$directory/memory-away" | tail -n 1)
  behind=$(sort -n "$directory/memory-behind" | tail -n 1)
  mkdir -p "$directory/runs/catch-up"
  printf '{"workload":"catch-up","target":"flaredb","leader_bytes_away":%d,"leader_bytes_more":%d}\n' \
    $((away * 1024)) $(((behind - away) * 1024)) >"$directory/runs/catch-up/1.json"
}

fastest_etcd_node() {
  local number address
  for number in "${REPLICAS[@]}"; do
    address=${etcd_addresses[etcd-$number]}
    rdbctl bench raw-put --output json --duration 1s --warmup 200ms --concurrency 64 --target etcd --endpoint "$address" |
      sed -n "s/.*\"operations_per_second\":\([0-9]*\).*/\1 $address/p"
  done | sort -n | sed -n '$s/.* //p'
}

# Each build is called by its own rdbctl. Which one goes first changes.
measure_against_before() {
  local round build pd_address
  local -A pds=()
  for build in before now; do
    in_build "$build" start_cluster "$build"
    pds[$build]=$RDBCTL_PD
    in_build "$build" rdbctl bench load --keys "$keys" >/dev/null
  done
  for ((round = 1; round <= rounds; round++)); do
    if ((round % 2)); then set -- before now; else set -- now before; fi
    for build in "$@"; do
      export RDBCTL_PD=${pds[$build]}
      in_build "$build" measure_build "$build" "$round"
    done
  done
  for build in before now; do
    stop_cluster "$build"
  done
  print_ratios 'raw_put of 256 callers, now / before' operations_per_second put-256-now put-256-before
  print_ratios 'raw_get of 256 callers, now / before' operations_per_second get-256-now get-256-before
}

# in_build before|now COMMAND…
in_build() {
  local binaries=$binaries
  [[ $1 == now ]] || binaries=$before
  "${@:2}"
}

measure_build() {
  local callers
  for callers in 1 256; do
    keep_with_processor_time "put-$callers-$1" "$2" "server-$1" bench raw-put --keys "$keys" --concurrency "$callers"
    keep "get-$callers-$1" "$2" bench raw-get --keys "$keys" --concurrency "$callers" --no-load
    keep "cas-$callers-$1" "$2" bench cas --keys "$keys" --concurrency "$callers"
  done
}

measure_cold_keys() {
  local keys=$COLD_KEYS round
  [[ $quick == no ]] || keys=$COLD_KEYS_QUICK
  start_cluster cold --block-cache-mib "$COLD_CACHE_MIB"
  rdbctl bench cas --keys "$keys" --concurrency 256 --duration 10ms --warmup 0 >/dev/null
  for ((round = 1; round <= rounds; round++)); do
    # A start leaves nothing in memory that was written before.
    stop server-cold
    start_server cold --block-cache-mib "$COLD_CACHE_MIB"
    keep cas-cold-256 "$round" bench cas --keys "$keys" --concurrency 256
  done
  stop_cluster cold
}

measure_memory() {
  local keys=$MEMORY_KEYS read_seconds=$MEMORY_READ_SECONDS few=''
  [[ $quick == no ]] || keys=$MEMORY_KEYS_QUICK read_seconds=1 few=-few
  start_cluster memory
  rdbctl bench load --keys "$keys" --value-size "$MEMORY_VALUE_BYTES" >/dev/null
  wait_for_compaction "${pids[server-memory]}"
  keep_memory "memory-loaded$few" "${pids[server-memory]}" "$keys"
  # Reads from all over fill the block cache.
  rdbctl bench raw-get --keys "$keys" --no-load --concurrency 256 --duration "${read_seconds}s" >/dev/null
  wait_for_compaction "${pids[server-memory]}"
  keep_memory "memory-read$few" "${pids[server-memory]}" "$keys"
  stop_cluster memory
}

# A million keys with values of 128 bytes go out of a store and into it again, in either form, between puts and gets of single keys.
measure_transfer() {
  local keys=$TRANSFER_KEYS round form
  [[ $quick == no ]] || keys=$TRANSFER_KEYS_QUICK
  start_cluster transfer
  rdbctl bench load --keys "$keys" >/dev/null
  for ((round = 1; round <= rounds; round++)); do
    keep put-256-transfer "$round" bench raw-put --keys "$keys" --concurrency 256
    keep get-256-transfer "$round" bench raw-get --keys "$keys" --concurrency 256 --no-load
    for form in jsonl binary; do
      keep_transfer "export-$form" "$round" raw export "$directory/disk/transfer" --prefix bench/ --form "$form"
      keep_transfer "import-$form" "$round" raw import "$directory/disk/transfer"
    done
  done
  rm -f "$directory/disk/transfer"
  stop_cluster transfer
  for form in jsonl binary; do
    print_ratios "export, $form / raw_get of 256 callers" operations_per_second "export-$form" get-256-transfer
    print_ratios "import, $form / raw_put of 256 callers" operations_per_second "import-$form" put-256-transfer
  done
}

# keep_transfer NAME ROUND ARGUMENT…: as keep, of an rdbctl that moves all `keys`.
keep_transfer() {
  local file=$directory/runs/$1/$2.json began nanoseconds told
  printf '   %s\n' "$1"
  mkdir -p "$directory/runs/$1"
  began=$(date +%s%N)
  told=$(rdbctl "${@:3}" 2>>"$directory/logs/measuring") || true
  nanoseconds=$(($(date +%s%N) - began))
  if [[ $told != "$keys entries" ]]; then
    failed_measurement "$1" "$file"
    return
  fi
  printf '{"workload":"%s","target":"flaredb","operations":%d,"operations_per_second":%d}\n' \
    "$1" "$keys" $((keys * 1000000000 / nanoseconds)) >"$file"
}

# The same calls in plain text, over mutual TLS, and over that with rights. Which one goes first changes.
measure_secured() {
  local round turn kind calls callers kinds=(plain tls rights)
  local -A pds=()
  rdbctl cert dev --dir "$directory/tls" >/dev/null
  for kind in "${kinds[@]}"; do
    with_security "$kind" start_secured_cluster "$kind"
    pds[$kind]=$RDBCTL_PD
    with_security "$kind" rdbctl bench load --keys "$keys" >/dev/null
  done
  for ((round = 1; round <= rounds; round++)); do
    for turn in "${!kinds[@]}"; do
      kind=${kinds[(round + turn) % ${#kinds[@]}]}
      export RDBCTL_PD=${pds[$kind]}
      with_security "$kind" measure_secured_calls "$kind" "$round"
    done
  done
  for kind in "${kinds[@]}"; do
    stop_cluster "$kind"
  done
  for kind in tls rights; do
    for calls in put get; do
      for callers in 1 256; do
        print_ratios "raw_$calls, $kind / plain, callers: $callers, calls/s" \
          operations_per_second "$calls-$callers-$kind" "$calls-$callers-plain"
        print_ratios "raw_$calls, $kind / plain, callers: $callers, p50" p50 "$calls-$callers-$kind" "$calls-$callers-plain"
      done
    done
  done
}

# with_security plain|tls|rights COMMAND…: with the settings of its servers and of its callers.
with_security() {
  local tls=$directory/tls
  if [[ $1 != plain ]]; then
    local -x RDB_PD_TLS_CERT=$tls/server.pem RDB_PD_TLS_KEY=$tls/server.key RDB_PD_TLS_CLIENT_CA=$tls/ca.pem
    local -x RDB_SERVER_TLS_CERT=$tls/server.pem RDB_SERVER_TLS_KEY=$tls/server.key RDB_SERVER_TLS_CLIENT_CA=$tls/ca.pem
    local -x RDBCTL_CA=$tls/ca.pem RDBCTL_CERT=$tls/client.pem RDBCTL_KEY=$tls/client.key
  fi
  if [[ $1 == rights ]]; then
    local -x RDB_PD_AUTH=true RDB_SERVER_AUTH_TOKEN_FILE=$tls/stores.token RDBCTL_TOKEN_FILE=$tls/caller.token
  fi
  "${@:2}"
}

# start_secured_cluster KIND: the token of its store is there before the store.
start_secured_cluster() {
  start_placement_driver "$1"
  [[ $1 != rights ]] || make_users "$directory/tls"
  start_server "$1"
}

# make_users DIR: an administrator, the store, and one who may read and write what `rdbctl bench` does. Their tokens are in DIR.
make_users() {
  local -x RDBCTL_TOKEN_FILE=$1/admin.token
  rdbctl auth enable --token-out "$RDBCTL_TOKEN_FILE" --timeout 1m
  rdbctl auth user add stores --token-out "$1/stores.token"
  rdbctl auth grant stores store
  rdbctl auth user add caller --token-out "$1/caller.token"
  rdbctl auth grant caller writer --keyspace raw --prefix bench/
} >>"$directory/logs/users"

# measure_secured_calls KIND ROUND
measure_secured_calls() {
  local callers
  for callers in 1 256; do
    keep "put-$callers-$1" "$2" bench raw-put --keys "$keys" --concurrency "$callers"
    keep "get-$callers-$1" "$2" bench raw-get --keys "$keys" --concurrency "$callers" --no-load
  done
}

# print_ratios WHAT FIGURE NAME OVER: the median of the ratios of all rounds, the lower of the middle two, and their range.
print_ratios() {
  local round
  for ((round = 1; round <= rounds; round++)); do
    echo "$(figure_of "$2" "$3" "$round") $(figure_of "$2" "$4" "$round")"
  done | awk '$1 > 0 && $2 > 0 { print $1 / $2 }' | sort -n | awk -v what="$1" '
    { ratios[NR] = $1 }
    END {
      if (NR == 0) printf "   %s: not measured\n", what
      else printf "   %s: %.2f (%.2f to %.2f)\n", what, ratios[int((NR + 1) / 2)], ratios[1], ratios[NR]
    }'
}

# figure_of FIGURE NAME ROUND: nothing where that failed.
figure_of() {
  sed -n "1s/.*\"$1\":\([0-9.]*\).*/\1/p" "$directory/runs/$2/$3.json"
}

# wait_for_compaction PID: until the process has used next to no processor time for a while.
wait_for_compaction() {
  local deadline=$((SECONDS + COMPACTED_WITHIN_SECONDS)) calm=0 before after
  before=$(cpu_time_ticks "$1")
  while ((calm < 3)); do
    ((SECONDS < deadline)) || fail "the store still compacts after $COMPACTED_WITHIN_SECONDS seconds"
    sleep 2
    after=$(cpu_time_ticks "$1")
    # 2 ticks in 2 seconds are a hundredth of a core.
    if ((after - before <= 2)); then calm=$((calm + 1)); else calm=0; fi
    before=$after
  done
}

# User and system time of a process. Its name, which may hold anything, ends with the last parenthesis.
cpu_time_ticks() {
  sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# keep_with_processor_time NAME ROUND PROCESSES …: as keep, with the processor time that these processes took for each operation. That of
# the warm-up counts, its operations do not.
keep_with_processor_time() {
  local process ticks=0 file=$directory/runs/$1/$2.json operations
  for process in $3; do ticks=$((ticks - $(cpu_time_ticks "${pids[$process]}"))); done
  keep "$1" "$2" "${@:4}"
  for process in $3; do ticks=$((ticks + $(cpu_time_ticks "${pids[$process]}"))); done
  operations=$(sed -n '1s/.*"operations":\([0-9]*\).*/\1/p' "$file")
  if ((${operations:-0} > 0)); then
    sed -i "1s/^{/{\"server_ns_per_operation\":$((ticks * 1000000000 / $(getconf CLK_TCK) / operations)),/" "$file"
  fi
}

# keep_memory NAME PID KEYS
keep_memory() {
  local kib
  kib=$(awk '/^RssAnon/ { print $2 }' "/proc/$2/status")
  mkdir -p "$directory/runs/$1"
  printf '{"workload":"memory","target":"flaredb","keys":%d,"anonymous_bytes":%d}\n' "$3" $((kib * 1024)) \
    >"$directory/runs/$1/1.json"
}

# keep NAME ROUND limits|bench ARGUMENT…: one measurement, of another length where `length` says so. A failed one is shown, is reported on the page, and does not
# end the run.
keep() {
  local file=$directory/runs/$1/$2.json log=$directory/logs/measuring
  printf '   %s\n' "$1"
  mkdir -p "$directory/runs/$1"
  case $3 in
    limits) "$binaries/examples/limits" "${@:4}" >"$file" 2>>"$log" || failed_measurement "$1" "$file" ;;
    bench)
      rdbctl bench "$4" --output json --duration "${length:-${seconds}s}" --warmup "$warmup" "${@:5}" >"$file" 2>>"$log" ||
        failed_measurement "$1" "$file"
      ;;
  esac
}

failed_measurement() {
  echo "   $1 FAILED: $(tail -n 1 "$directory/logs/measuring")" >&2
  [[ -s $2 ]] || echo '{"error":{"kind":"failed"}}' >"$2"
}
