# Sourced by bench.sh: what the machine is, and whether it is idle enough to measure on.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # they share the variables of bench.sh

# A machine that does more than this beside us is too busy, in percent of all its cores.
readonly BUSY_PERCENT_MAX=10
# How long to wait for it to calm down, e.g. after the build.
readonly CALM_WITHIN_SECONDS=60

business_before_rounds=()
was_forced=no

# How busy the machine is over two seconds, in percent of all cores.
busy_percent() {
  local busy_before total_before busy_after total_after
  read -r busy_before total_before < <(cpu_ticks)
  sleep 2
  read -r busy_after total_after < <(cpu_ticks)
  echo $((100 * (busy_after - busy_before) / (total_after - total_before)))
}

# Ticks of all cores since the start: busy ones, all of them. Waiting for the disk is idle; time stolen by other virtual
# machines is not.
cpu_ticks() {
  local user nice system idle io_wait interrupt soft_interrupt steal
  read -r _ user nice system idle io_wait interrupt soft_interrupt steal _ </proc/stat
  local busy=$((user + nice + system + interrupt + soft_interrupt + steal))
  echo "$busy $((busy + idle + io_wait))"
}

refuse_busy_machine() {
  local deadline=$((SECONDS + CALM_WITHIN_SECONDS)) busy
  [[ $force == no ]] || deadline=$SECONDS
  while true; do
    busy=$(busy_percent)
    if ((busy <= BUSY_PERCENT_MAX)); then
      return
    fi
    ((SECONDS < deadline)) || break
  done
  if [[ $force == no ]]; then
    fail "the machine is $busy% busy with other things, more than $BUSY_PERCENT_MAX%; stop them, or use --force"
  fi
  was_forced=yes
  echo "the machine is $busy% busy with other things; measuring all the same" >&2
}

# Our own servers are idle between rounds.
note_business() {
  business_before_rounds+=("$(busy_percent)%")
}

describe_machine() {
  local commit
  commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
  git diff --quiet HEAD 2>/dev/null || commit+=' with changes'
  cat <<TEXT
date: $(date +%F)
processor: $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
cores: $(nproc)
memory: $(awk '/^MemTotal/ { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo)
kernel: $(uname -sr)
file system of all data: $(df --output=fstype "$directory" | tail -n 1)
FlareDB: commit $commit, profile $profile
Rust: $(rustc --version)
etcd: $(version_of_etcd)
Redis: $(version_of_redis)
rounds: $rounds of $seconds s per measurement after a warm-up of $warmup; $single_rounds for the single callers
data: keys of 16 bytes, values of 128 random bytes, $keys keys unless said otherwise
busy with other things before each round: ${business_before_rounds[*]}
TEXT
  [[ $was_forced == no ]] || echo 'note: **forced on a busy machine**'
  if [[ $quick == yes ]]; then
    echo 'judged: no, a quick run'
  elif [[ $profile != release ]]; then
    echo 'judged: no, not an optimised build'
  fi
}

version_of_etcd() {
  if has_etcd; then
    etcd --version | sed -n 's/^etcd Version: //p'
  else
    echo 'not installed'
  fi
}

version_of_redis() {
  if has_redis; then
    redis-server --version | sed 's/.* v=\([^ ]*\).*/\1/'
  else
    echo 'not installed'
  fi
}
