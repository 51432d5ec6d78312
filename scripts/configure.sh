#!/usr/bin/env bash
# Configures a build directory.   scripts/configure.sh PRESET [OPTION...]
# PRESET is default, asan, tsan or fuzz; the options are those of cmake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# CXX of the user wins; else g++ 12 is used where g++ itself is older (Ubuntu 22.04).
if [[ -z "${CXX:-}" ]]; then
  version=$(g++ -dumpversion)
  if ((${version%%.*} < 12)) && command -v g++-12 >/dev/null; then
    export CXX=g++-12
  fi
fi
cmake --preset "$@" >/dev/null
