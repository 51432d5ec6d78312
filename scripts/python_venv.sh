#!/usr/bin/env bash
# Makes build/venv-python: what the Python models need (torch, diffusers), pinned; some gigabytes.
# Does nothing when it is there and its requirements have not changed, or when FLUX_PYTHON names a
# Python to use instead. Prints the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${FLUX_PYTHON:-}" ]]; then
  echo "${FLUX_PYTHON}"
  exit 0
fi
requirements=convert/python/requirements.txt
environment=build/venv-python
if ! cmp -s "${requirements}" "${environment}/installed.txt"; then
  echo "Installing torch and diffusers into ${environment}" >&2
  rm -rf "${environment}"
  mkdir -p build
  python3 -m venv "${environment}"
  "${environment}/bin/pip" install --quiet --disable-pip-version-check -r "${requirements}" >&2
  cp "${requirements}" "${environment}/installed.txt"
fi
echo "${PWD}/${environment}/bin/python3"
