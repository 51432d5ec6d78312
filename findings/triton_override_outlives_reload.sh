#!/usr/bin/env bash
# tritonserver 2.51.0 (nvidia-pytriton 0.7.0), its Python backend, model control mode explicit.
# A load request may carry a configuration that replaces config.pbtxt. A later load request without one answers 200,
# but leaves the replaced configuration in force; so does one sent again. Only when a file of the model is newer than
# before (touch is enough) does the same request bring config.pbtxt back.
# Seen, as max_batch_size (8 in the file): loaded 8; with override 3; plain load 3; plain load again 3; after touch 8.
# Expected: 8 after the first plain load, or a refusal: 200 reads as "the model is loaded as the repository has it".
# Why it matters: a trial setting (queue length, batch size, a LoRA folder in parameters) taken back by a plain load
# stays until somebody happens to edit a file, and what runs stands in no file.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/triton.bash"
triton_install

mkdir -p "$work/models/echo/1"
cat >"$work/models/echo/config.pbtxt" <<'CONFIG'
backend: "python"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
CONFIG
cat >"$work/models/echo/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse([utils.Tensor("y", utils.get_input_tensor_by_name(r, "x").as_numpy())])
                for r in requests]
MODEL
triton_start --model-control-mode=explicit --load-model=echo

"$python" - "$http" "$work/models/echo/config.pbtxt" <<'ASK' | tee "$work/seen"
import json
import os
import sys
import urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}/v2"


def config():
    with urllib.request.urlopen(f"{base}/models/echo/config", timeout=60) as reply:
        return json.load(reply)


def load(what, **parameters):
    body = json.dumps({"parameters": parameters}).encode()
    request = urllib.request.Request(f"{base}/repository/models/echo/load", body)
    with urllib.request.urlopen(request, timeout=60) as reply:
        print(f"{what}: {reply.status}, max_batch_size {config()['max_batch_size']}")


whole = config()
print("loaded: max_batch_size", whole["max_batch_size"])
load("with override", config=json.dumps({**whole, "max_batch_size": 3}))
load("plain load")
load("plain load again")
os.utime(sys.argv[2])
load("after touch")
ASK

if diff - "$work/seen" <<'SEEN'
loaded: max_batch_size 8
with override: 200, max_batch_size 3
plain load: 200, max_batch_size 3
plain load again: 200, max_batch_size 3
after touch: 200, max_batch_size 8
SEEN
then
  echo "tritonserver 2.51.0: HOLDS (expected: 8 from the first plain load on, or a refusal)"
else
  echo "STALE: the behaviour has changed"
  exit 1
fi
