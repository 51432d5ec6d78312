#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that are missing, and nothing else.
#   scripts/setup.sh GROUP...     groups: build, serve, browser, test, fuzz, bench
# Runs as root or with sudo; the second run finds everything and does nothing.
set -euo pipefail

packages_of() {
  case "$1" in
    build)
      # The product needs a compiler, build tools, and the libraries that it links.
      echo g++ cmake ninja-build ccache pkg-config python3 git make \
        libdnnl-dev libutf8proc-dev nlohmann-json3-dev libcli11-dev \
        libpng-dev libjpeg-dev libwebp-dev libfmt-dev libgtest-dev \
        libboost-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
      ;;
    # The server and its clients come from PyPI (scripts/serving_venv.sh).
    serve) echo python3-venv ;;
    # The front's page is tested in a real browser. Ubuntu names it otherwise, and installs a snap.
    browser)
      if grep -qx 'ID=ubuntu' /etc/os-release; then
        echo chromium-browser chromium-chromedriver
      else
        echo chromium chromium-driver
      fi
      ;;
    test)
      # Version 14 by name: other versions format and warn differently.
      # The serving tests use curl, too; the server's Python backend loads libpython; the
      # microbenchmarks are built.
      echo clang-format-14 clang-tidy-14 dpkg-dev curl libpython3-dev libbenchmark-dev \
        "$(packages_of serve)" "$(packages_of browser)"
      ;;
    fuzz) echo clang-14 libclang-rt-14-dev ;;
    # perf_analyzer, from the wheel of tritonclient, needs libb64.
    bench) echo python3-venv libb64-0d ;;
    *)
      echo "scripts/setup.sh: group '$1' is not known: use build, serve, browser, test, fuzz or bench" >&2
      exit 2
      ;;
  esac
}

# A tool that was not installed by a package counts as well.
is_present() {
  if dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; then
    return 0
  fi
  case "$1" in
    ninja-build) command -v ninja >/dev/null ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    g++ | cmake | ccache | pkg-config | python3 | git | make | curl) command -v "$1" >/dev/null ;;
    chromium | chromium-browser) command -v chromium chromium-browser >/dev/null ;;
    chromium-driver | chromium-chromedriver) command -v chromedriver >/dev/null ;;
    clang-*-14 | clang-14) command -v "$1" >/dev/null ;;
    # Older packages of clang 14 carry the sanitizer runtime in libclang-common-14-dev.
    libclang-rt-14-dev) compgen -G '/usr/lib/llvm-14/lib/clang/*/lib/linux/*fuzzer*' >/dev/null ;;
    *) return 1 ;;
  esac
}

missing_of() {
  local group package
  for group in "$@"; do
    for package in $(packages_of "${group}"); do
      is_present "${package}" || echo "${package}"
    done
  done
  # Ubuntu 22.04: g++ is version 11; 12 is packaged beside it.
  local version
  version=$(g++ -dumpversion 2>/dev/null || echo 12)
  if ((${version%%.*} < 12)) && ! command -v g++-12 >/dev/null; then echo g++-12; fi
}

as_root() {
  if [[ "$(id -u)" == 0 ]]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif command -v sudo >/dev/null; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    echo "scripts/setup.sh: neither root nor sudo; ask an administrator to run: $*" >&2
    exit 1
  fi
}

install() {
  as_root apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

install_missing() {
  local missing
  mapfile -t missing < <(missing_of "$@")
  if ((${#missing[@]} == 0)); then return; fi
  echo "Installing missing packages: ${missing[*]}" >&2
  # Package lists may be absent or old; they are fetched only when the first try fails.
  if ! install "${missing[@]}" >&2; then
    as_root apt-get update -q >&2
    install "${missing[@]}" >&2
  fi
}

main() {
  local group
  for group in "$@"; do packages_of "${group}" >/dev/null; done
  if ! command -v dpkg-query >/dev/null; then
    echo "scripts/setup.sh: no dpkg here: this set-up knows Debian 12 and Ubuntu 22.04 or newer;" \
      "elsewhere install the counterparts of:" "$(for g in "$@"; do packages_of "$g"; done)" >&2
    exit 1
  fi
  # The second pass sees which g++ the first one installed.
  install_missing "$@"
  install_missing "$@"
}

main "$@"
