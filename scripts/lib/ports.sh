# Sourced by the scripts that start servers.
# shellcheck shell=bash

# A port below the range from which the system takes ports for outgoing connections: there, one of those could have the
# port by the time that a process which was killed starts again. So is the port 1000 further, where a server has its status pages by default.
free_port() {
  local low=10000 high=32768 port
  if [[ -r /proc/sys/net/ipv4/ip_local_port_range ]]; then
    read -r high _ </proc/sys/net/ipv4/ip_local_port_range
  fi
  ((high > low + 2000)) || high=32768
  while true; do
    port=$((low + (RANDOM << 15 | RANDOM) % (high - low - 1000)))
    if is_free "$port" && is_free $((port + 1000)); then
      echo "$port"
      return
    fi
  done
}

is_free() {
  ! (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
