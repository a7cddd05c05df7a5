#!/usr/bin/env bash
# Makes the archive of a release, and checks it: it has manual pages and completions, and in an empty directory as root directory, with
# nothing but the archive and the C library, the programs say their version, and serve a put and a get.
#
#   scripts/package.sh [--output DIR] [--bin-dir DIR]
#
# --output DIR   where the archive and SHA256SUMS go [default: package/ in the target directory]
# --bin-dir DIR  take the programs in DIR instead of building them; for trying this script
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
# shellcheck source=scripts/lib/ports.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/ports.sh"

readonly PROGRAMS=(rdb-server rdb-pd rdbctl)

# Programs of a release have no feature that most who run them do not use: no export of spans.
readonly RELEASE=(--workspace --features rdb-client/cli --locked)

# What a program may ask of a machine. All of it belongs to the C library and the compiler's runtime, which every distribution has.
readonly LIBRARIES='linux-vdso(64)?|ld-linux.*|ld64|libc|libm|libdl|libpthread|librt|libutil|libgcc_s'

# How long a server may take to serve.
readonly LIMIT_SECONDS=120

bin_dir='' is_built='' output=$CARGO_TARGET_DIR/package
# The working files; of the check the root directory, what begins a command there, and the servers.
directory='' chroot_dir='' enter=() processes=()

main() {
  read_options "$@"
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap finish EXIT
  directory=$(mktemp -d)
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  local version name
  if [[ -n $bin_dir ]]; then
    # Any build has its own.
    check_libraries "$LIBRARIES|libstdc\\+\\+"
  else
    build
    check_libraries "$LIBRARIES"
  fi
  version=$("$bin_dir/rdb-server" --version | cut -d ' ' -f 2)
  name=flaredb-$version-$(uname -m)-linux-gnu
  stage "$directory/$name"
  pack "$name"
  check "$name"
  publish "$name"
  echo "package: $output/$name.tar.gz"
}

read_options() {
  while (($#)); do
    case $1 in
    --output) output=$(realpath -m -- "${2:?--output needs a directory}") ;;
    --bin-dir) bin_dir=$(realpath -e -- "${2:?--bin-dir needs a directory}") ;;
    *) fail "unknown option $1; there are --output DIR and --bin-dir DIR" ;;
    esac
    shift 2
  done
}

build() {
  prepare
  local library
  library=$(cc -print-file-name=libstdc++.a)
  [[ $library == /* ]] || fail 'there is no libstdc++.a to link; install it (Fedora: libstdc++-static)'
  # Cargo compiles all anew for another linker, and one at another path is another one. So neither do other builds share this directory,
  # nor does the linker lie in a checkout.
  local target=$CARGO_TARGET_DIR/package-build
  local linker=$target/link-libstdcxx-statically.sh
  install -D -m 755 scripts/lib/link-libstdcxx-statically.sh "$linker"
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  host=${host^^}
  # jemalloc takes the size of a page from the machine that compiles it. Some kernels of this architecture have larger ones.
  [[ $(uname -m) != aarch64 ]] || export JEMALLOC_SYS_WITH_LG_PAGE=16
  # The metrics name it.
  local commit
  commit=$(git describe --always --dirty --exclude='*' --abbrev=12)
  env --unset=FLAREDB_WITHOUT_FIGURES "CARGO_TARGET_${host//-/_}_LINKER=$linker" "FLAREDB_COMMIT=$commit" \
    cargo build --release --target-dir "$target" "${RELEASE[@]}"
  bin_dir=$target/release
  is_built=yes
}

# check_libraries NAMES: the programs need no others.
check_libraries() {
  local program libraries library
  for program in "${PROGRAMS[@]}"; do
    libraries=$(ldd "$bin_dir/$program" | awk '{ print $1 }')
    for library in $libraries; do
      [[ ${library##*/} =~ ^($1)\.so\.[0-9]+$ ]] || fail "$program needs $library of the machine; link it statically"
    done
  done
}

# stage DIRECTORY: what the archive has.
stage() {
  local program page shell
  mkdir -p "$1"/{bin,docs,share/completions}
  for program in "${PROGRAMS[@]}"; do
    # Names of functions stay, for backtraces; lines go, which are most of the size.
    strip --strip-debug -o "$1/bin/$program" "$bin_dir/$program"
    chmod 755 "$1/bin/$program"
  done
  install -m 644 LICENSE "$1"
  install -D -m 644 -t "$1/docs/bench" docs/bench/*.svg
  for page in README.md CHANGELOG.md docs/*.md docs/bench/*.md; do
    # The archive lacks the sources. A link to them becomes its text.
    sed -Ez 's#\[([^][]*)\]\((\.\./)*(rdb-[^)]*|scripts/[^)]*|CONTRIBUTING\.md)\)#\1#g' "$page" >"$1/$page"
  done
  install -D -m 644 -t "$1/docs/systemd" docs/systemd/*.service
  install -D -m 644 -t "$1/docs/monitoring" docs/monitoring/*
  "$bin_dir/rdbctl" manual "$1/share/man/man1" >/dev/null
  mkdir "$1/share/man/man8"
  for program in rdb-server rdb-pd; do
    "$bin_dir/$program" --manual >"$1/share/man/man8/$program.8"
  done
  for shell in bash fish zsh; do
    "$bin_dir/rdbctl" completions "$shell" >"$1/share/completions/rdbctl.$shell"
  done
}

# pack NAME: the same bytes for the same programs.
pack() {
  local time
  time=$(git log -1 --format=%ct)
  tar --create --directory "$directory" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --mtime="@$time" "$1" | gzip -9 --no-name >"$directory/$1.tar.gz"
}

# publish NAME: an archive that is not checked, or not whole, has no sum beside it.
publish() {
  mkdir -p "$output"
  rm -f "$output/SHA256SUMS"
  (cd "$directory" && sha256sum "$1.tar.gz" >SHA256SUMS)
  mv "$directory/$1.tar.gz" "$output/"
  mv "$directory/SHA256SUMS" "$output/"
}

# check NAME
check() {
  chroot_dir=$directory/root
  mkdir "$chroot_dir"
  tar --extract --gzip --file "$directory/$1.tar.gz" --directory "$chroot_dir" --strip-components 1 --no-same-owner
  check_links
  check_pages
  copy_libraries
  enter=("$(PATH=$PATH:/usr/sbin command -v chroot)" "$chroot_dir")
  # Another user's id is that of root in a namespace of its own.
  ((EUID == 0)) || enter=("$(command -v unshare)" --map-root-user "${enter[@]}")
  enter=(env - "${enter[@]}")
  local program
  for program in "${PROGRAMS[@]}"; do
    inside "$program" --version
  done
  # Any build has its own features.
  [[ -z $is_built ]] || refuse_to_export_spans
  serve_a_put_and_a_get
}

# The manual pages and completions are there, and not empty.
check_pages() {
  local file
  for file in man/man1/rdbctl.1 man/man1/rdbctl-raw-put.1 man/man8/rdb-{server,pd}.8 completions/rdbctl.{bash,fish,zsh}; do
    [[ -s $chroot_dir/share/$file ]] || fail "the archive has no share/$file"
  done
}

# Every relative link of a page leads to something in the archive.
check_links() {
  local links page link
  links=$(cd "$chroot_dir" && grep --recursive --only-matching --extended-regexp --include='*.md' '\]\([^)#]+' .)
  while IFS=: read -r page link; do
    link=${link#*(}
    [[ $link == *:* || -e $chroot_dir/${page%/*}/$link ]] || fail "$page links to $link, which is not in the archive"
  done <<<"$links"
}

# The libraries at the paths where the programs look for them.
copy_libraries() {
  local libraries library
  # Lines of libraries end with an address; others name the programs.
  libraries=$(ldd "${PROGRAMS[@]/#/$chroot_dir/bin/}" | awk '/\(0x/ && $(NF - 1) ~ /^\// { print $(NF - 1) }' | sort -u)
  for library in $libraries; do
    install -D "$library" "$chroot_dir$library"
  done
}

# inside PROGRAM ARGUMENT…: with the unpacked archive as root directory.
inside() {
  "${enter[@]}" "/bin/$1" "${@:2}"
}

# The servers say which feature they lack.
refuse_to_export_spans() {
  local program told
  for program in rdb-server rdb-pd; do
    told=$(inside "$program" --otlp-endpoint http://127.0.0.1:4317 --print-config 2>&1) && fail "$program takes --otlp-endpoint"
    [[ $told == *'cargo feature'*otlp* ]] || fail "$program does not say what --otlp-endpoint needs: $told"
  done
}

serve_a_put_and_a_get() {
  local pd server value process
  pd=127.0.0.1:$(free_port)
  server=127.0.0.1:$(free_port)
  start rdb-pd --addr "$pd" --status-addr none --data-dir /pd
  start rdb-server --addr "$server" --pd "$pd" --status-addr none --data-dir /server
  local deadline=$((SECONDS + LIMIT_SECONDS))
  until inside rdbctl --pd "$pd" health >/dev/null 2>&1; do
    # `kill` is content with one that runs.
    for process in "${processes[@]}"; do
      kill -0 "$process" 2>/dev/null || fail "a server has ended: $(cat "$directory"/*.log)"
    done
    ((SECONDS < deadline)) || fail "the servers do not serve: $(cat "$directory"/*.log)"
    sleep 0.1
  done
  inside rdbctl --pd "$pd" raw put greeting hello >/dev/null
  value=$(inside rdbctl --pd "$pd" raw get greeting)
  [[ $value == hello ]] || fail "got ${value:-nothing}, not what was put"
  stop
}

# start PROGRAM ARGUMENT…
start() {
  # A command and no function, so that the process id is that of the program.
  "${enter[@]}" "/bin/$1" "${@:2}" >"$directory/$1.log" 2>&1 &
  processes+=("$!")
}

# Ends the servers. They exit 0.
stop() {
  local process
  kill "${processes[@]}"
  for process in "${processes[@]}"; do
    wait "$process" || fail "a server did not end well: $(cat "$directory"/*.log)"
  done
  processes=()
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  if ((${#processes[@]})); then
    { kill "${processes[@]}" && wait "${processes[@]}"; } 2>/dev/null || true
  fi
  [[ -z $directory ]] || rm -rf "$directory"
  exit "$code"
}

main "$@"
