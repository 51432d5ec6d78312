#!/usr/bin/env bash
# Configures a build directory.   scripts/configure.sh PRESET [OPTION...]
# PRESET: default, asan or fuzz; options of cmake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The user's choice of compiler counts; else g++ 12 where g++ itself is older (Ubuntu 22.04).
if [[ -z "${CXX:-}" ]]; then
  version=$(g++ -dumpversion)
  if ((${version%%.*} < 12)) && command -v g++-12 >/dev/null; then
    export CXX=g++-12
  fi
fi
cmake --preset "$@" >/dev/null
