#!/bin/sh
# A linker for cargo: the system's, with the C++ library inside the program. So a package does not ask for that of the machine that it
# was built on.
for argument in "$@"; do
  shift
  case $argument in
  -lstdc++) argument=-l:libstdc++.a ;;
  esac
  set -- "$@" "$argument"
done
exec cc "$@"
