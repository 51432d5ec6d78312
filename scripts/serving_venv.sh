#!/usr/bin/env bash
# Makes .venv-serving: the real Triton server and its clients from PyPI, pinned. Does nothing when it
# is there and its requirements have not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

requirements=tests/serving/requirements.txt
installed=.venv-serving/installed.txt
if cmp -s "${requirements}" "${installed}"; then exit 0; fi
rm -rf .venv-serving
python3 -m venv .venv-serving
.venv-serving/bin/pip install --quiet --disable-pip-version-check -r "${requirements}"
cp "${requirements}" "${installed}"
