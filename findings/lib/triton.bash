# Sourced by the triton_*.sh scripts: an own temp folder with the public server in it, started on free ports.
#   triton_install PACKAGE...   temp folder $work, venv $python with nvidia-pytriton 0.7.0 and the packages
#   triton_start ARGS...        server $server, ports $http $grpc $metrics, log $work/log
#   triton_stop                 ends it

server=
triton_stop() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
  fi
}

triton_install() {
  work=$(mktemp -d)
  trap 'triton_stop; rm -rf "$work"' EXIT
  python3 -m venv "$work/venv"
  python=$work/venv/bin/python
  "$python" -m pip install --quiet nvidia-pytriton==0.7.0 "$@"
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir "$work/backends" "$work/models"
  cp -r "$site/pytriton/tritonserver/backends/python" "$work/backends/"
  # the wheel keeps one stub for each Python beside the backend
  local version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  cp "$site/pytriton/tritonserver/python_backend_stubs/$version"/* "$work/backends/python/"
}

triton_start() {
  local attempt _
  # a busy machine can miss the deadlines of the Python backend's start: some tries
  for attempt in 1 2 3 4; do
    read -r http grpc metrics < <("$python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in held))')
    PATH=$work/venv/bin:$PATH LD_LIBRARY_PATH=$site/nvidia_pytriton.libs \
      "$site/pytriton/tritonserver/bin/tritonserver" \
      --model-repository="$work/models" --backend-directory="$work/backends" \
      --http-address=127.0.0.1 --grpc-address=127.0.0.1 --metrics-address=127.0.0.1 \
      --http-port="$http" --grpc-port="$grpc" --metrics-port="$metrics" "$@" >"$work/log" 2>&1 &
    server=$!
    for _ in $(seq 120); do
      if grep -q 'Started Metrics Service' "$work/log"; then return 0; fi
      if ! kill -0 "$server" 2>/dev/null; then break; fi
      sleep 0.5
    done
    echo "start $attempt failed: $(grep -m 1 -iE '^E|terminate|what' "$work/log" | cut -c 1-160)" >&2
    triton_stop
  done
  tail -n 20 "$work/log" >&2
  return 1
}
