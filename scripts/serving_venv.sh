#!/usr/bin/env bash
# Makes .venv-serving: the real Triton server and its clients from PyPI, pinned. Does nothing when it
# is there and its requirements have not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

requirements=tests/serving/requirements.txt
alone=tests/serving/requirements_alone.txt
installed=.venv-serving/installed.txt
if cat "${requirements}" "${alone}" | cmp -s - "${installed}"; then exit 0; fi
echo "Installing the Triton server and its clients into .venv-serving" >&2
rm -rf .venv-serving
python3 -m venv .venv-serving
pip=(.venv-serving/bin/pip install --quiet --disable-pip-version-check)
"${pip[@]}" -r "${requirements}"
"${pip[@]}" --no-deps -r "${alone}"
cat "${requirements}" "${alone}" >"${installed}"
