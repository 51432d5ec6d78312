#!/usr/bin/env bash
# tritonserver 2.51.0 (nvidia-pytriton 0.7.0), its Python backend, tritonclient 2.73.0.
# A model that calls another model is at work when SIGTERM comes. Whether its request is answered depends on the
# protocol: over HTTP it is; over gRPC the next nested call is refused and the client gets an error; over gRPC while
# an HTTP request happens to be open as well, both are answered.
# Seen: grpc alone: error "Server not ready"; http alone: answered; grpc with http: both answered.
# Expected: "Waiting for in-flight requests" means the same for both: a request that has begun is answered.
# Why it matters: an image pipeline of several models loses every begun gRPC image at each rolling update, while a
# test of the shutdown by curl passes; only a pause before SIGTERM with the traffic already moved away helps.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/triton.bash"
triton_install 'tritonclient[grpc]==2.73.0'

mkdir -p "$work/models/inner/1" "$work/models/outer/1"
for name in inner outer; do
  cat >"$work/models/$name/config.pbtxt" <<'CONFIG'
backend: "python"
input [{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 2 }]
CONFIG
done
cat >"$work/models/inner/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse([utils.Tensor("y", utils.get_input_tensor_by_name(r, "x").as_numpy())])
                for r in requests]
MODEL
cat >"$work/models/outer/1/model.py" <<'MODEL'
import os
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        tensor = utils.Tensor("x", utils.get_input_tensor_by_name(request, "x").as_numpy())
        open(os.path.join(os.environ["BEGUN"], str(tensor.as_numpy()[0])), "w").close()
        for _ in range(3):
            time.sleep(1)
            reply = utils.InferenceRequest(model_name="inner", requested_output_names=["y"], inputs=[tensor]).exec()
            if reply.has_error():
                return utils.InferenceResponse([], utils.TritonError(reply.error().message()))
        return utils.InferenceResponse([utils.get_output_tensor_by_name(reply, "y")])
MODEL
cat >"$work/ask.py" <<'ASK'
import json
import os
import signal
import sys
import threading
import time
import urllib.request

import numpy as np
import tritonclient.grpc

pid, http, grpc, begun = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
answers = {}


def over_http():
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]}
    url = f"http://127.0.0.1:{http}/v2/models/outer/infer"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as reply:
        return json.load(reply)["outputs"][0]["data"]


def over_grpc():
    x = tritonclient.grpc.InferInput("x", [1], "INT32")
    x.set_data_from_numpy(np.array([2], np.int32))
    return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc}").infer("outer", [x]).as_numpy("y").tolist()


def ask(name, call):
    try:
        answers[name] = f"answered {call()}"
    except Exception as error:
        answers[name] = f"error {error}"


calls = {"http": over_http, "grpc": over_grpc}
threads = [threading.Thread(target=ask, args=(name, calls[name])) for name in sys.argv[5:]]
for thread in threads:
    thread.start()
while len(os.listdir(begun)) < len(threads):
    time.sleep(0.05)
os.kill(pid, signal.SIGTERM)
for thread in threads:
    thread.join()
for name in sys.argv[5:]:
    print(f"{' with '.join(sys.argv[5:])}: {name} {answers[name]}")
ASK

for protocols in grpc http 'grpc http'; do
  export BEGUN=$work/begun
  rm -rf "$BEGUN"
  mkdir "$BEGUN"
  triton_start
  # shellcheck disable=SC2086
  "$python" "$work/ask.py" "$server" "$http" "$grpc" "$BEGUN" $protocols | tee -a "$work/seen"
  wait "$server" || true
  server=
done

if grep -q '^grpc: grpc error' "$work/seen" && grep -q '^http: http answered \[1\]' "$work/seen" &&
  grep -q '^grpc with http: grpc answered \[2\]' "$work/seen" &&
  grep -q '^grpc with http: http answered \[1\]' "$work/seen"; then
  echo "tritonserver 2.51.0: HOLDS (expected: all four answered)"
else
  echo "STALE: the behaviour has changed"
  exit 1
fi
