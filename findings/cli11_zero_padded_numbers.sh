#!/usr/bin/env bash
# CLI11 2.1.2 (Debian 12's libcli11-dev 2.1.2+ds-1), g++.
# An option bound to an integer takes a number with a leading 0 for octal, and refuses it where it holds an 8 or 9; an
# option of the same program bound to a double takes the same text for decimal.
# Seen: --seed 0042 is 34, --seed 010 is 8, --seed 08 is refused, --guidance 010 is 10. Of the 100 seeds that
# `seq -w 1 100` prints, 8 are read as they look, 56 as another number, 36 are refused.
# Expected: 42, 10, 8, 10 as Python's argparse reads them (std::stoi, too): a command's user writes decimal.
# Why it matters: zero-padded seeds come from file names and `seq -w`. The image is made, is another one than the
# seed promises, and two names (010 and 8) hold one image. Read such options as text and parse them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq libcli11-dev=2.1.2+ds-1 2>/dev/null ||
  { apt-get update -qq && apt-get download -qq libcli11-dev=2.1.2+ds-1 2>/dev/null; }
dpkg -x libcli11-dev_*.deb .
cat >seed.cpp <<'SOURCE'
#include <CLI/CLI.hpp>
#include <iostream>

int main(int argc, char** argv) {
  CLI::App app;
  long long seed = 0;
  double guidance = 0;
  app.add_option("--seed", seed);
  app.add_option("--guidance", guidance);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError&) {
    std::cout << "refused\n";
    return 0;
  }
  std::cout << (app.count("--seed") ? double(seed) : guidance) << "\n";
}
SOURCE
g++ -std=c++17 -O0 -Iusr/include seed.cpp -o seed
echo "libcli11-dev $(dpkg-deb -f libcli11-dev_*.deb Version)"

for arguments in '--seed 0042' '--seed 010' '--seed 08' '--guidance 010'; do
  # shellcheck disable=SC2086
  echo "$arguments: $(./seed $arguments), argparse: $(python3 -c '
import argparse, sys
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--guidance", type=float)
print(*(f"{v:g}" for v in vars(parser.parse_args()).values() if v is not None))' $arguments)"
done | tee seen
right=0 other=0 refused=0
for number in $(seq -w 1 100); do
  got=$(./seed --seed "$number")
  if [ "$got" = refused ]; then
    refused=$((refused + 1))
  elif [ "$got" = "$((10#$number))" ]; then
    right=$((right + 1))
  else
    other=$((other + 1))
  fi
done
echo "seq -w 1 100: $right right, $other another number, $refused refused" | tee -a seen

if diff - seen <<'SEEN'
--seed 0042: 34, argparse: 42
--seed 010: 8, argparse: 10
--seed 08: refused, argparse: 8
--guidance 010: 10, argparse: 10
seq -w 1 100: 8 right, 56 another number, 36 refused
SEEN
then
  echo "HOLDS (expected: what argparse reads)"
else
  echo "STALE: the behaviour has changed"
  exit 1
fi
