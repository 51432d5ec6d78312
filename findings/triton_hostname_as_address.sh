#!/usr/bin/env bash
# tritonserver 2.51.0 (nvidia-pytriton 0.7.0).
# --http-address and --metrics-address take a name such as localhost without complaint, log "Started HTTPService at
# localhost:PORT", and listen on 255.255.255.255; --grpc-address resolves the same name and listens on 127.0.0.1.
# Seen: http 255.255.255.255, metrics 255.255.255.255, grpc 127.0.0.1; a connection to localhost: http refused,
# metrics refused, grpc accepted.
# Expected: three options of one server read a name alike: resolved, or refused at the start.
# Why it matters: the server runs, says that it serves and answers nobody, so a liveness check over gRPC is green
# while every HTTP client and the metrics scraper are refused. Addresses have to be resolved before they are handed on.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/triton.bash"
triton_install
triton_start --model-control-mode=explicit \
  --http-address=localhost --grpc-address=localhost --metrics-address=localhost
grep -o 'Started [A-Za-z ]* at [a-z]*' "$work/log"

"$python" - "$http" "$grpc" "$metrics" <<'LOOK' | tee "$work/seen"
import socket
import struct
import sys

listening = {}
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in list(open(table))[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A":
            address, port = local.split(":")
            # the last word is the IPv4 address, in a mapped IPv6 address too
            listening[int(port, 16)] = socket.inet_ntoa(struct.pack("=I", int(address[-8:], 16)))
for name, port in zip(("http", "grpc", "metrics"), map(int, sys.argv[1:])):
    try:
        socket.create_connection(("localhost", port), timeout=5).close()
        outcome = "accepted"
    except OSError:
        outcome = "refused"
    print(name, listening.get(port), outcome)
LOOK

if diff - "$work/seen" <<'SEEN'
http 255.255.255.255 refused
grpc 127.0.0.1 accepted
metrics 255.255.255.255 refused
SEEN
then
  echo "tritonserver 2.51.0: HOLDS (expected: 127.0.0.1 three times, or a refusal at the start)"
else
  echo "STALE: the behaviour has changed"
  exit 1
fi
