#!/usr/bin/env bash
# tritonserver 2.51.0 (nvidia-pytriton 0.7.0), its Python backend.
# A queue policy with allow_timeout_override: true lets a request bring a timeout of its own, but only where the
# policy has a default_timeout_microseconds besides: without a default the request's timeout is dropped silently.
# Two models, alike but for a default of a minute; each is kept busy for 3 s, then asked with a timeout of 0.2 s.
# Seen: no_default: 200, after about 3 s; with_default: 503 "Request timeout expired".
# Expected: 503 from both, as the option's name says; at the least a warning when the model loads.
# Why it matters: who allows timeouts and sets no default (no limit for the others) gets no timeouts at all: images
# whose clients have given up are still generated, one after another, just when the queue is long.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/triton.bash"
triton_install

for name in no_default with_default; do
  mkdir -p "$work/models/$name/1"
  policy='max_queue_size: 16 allow_timeout_override: true'
  if [ "$name" = with_default ]; then policy+=' default_timeout_microseconds: 60000000'; fi
  cat >"$work/models/$name/config.pbtxt" <<CONFIG
backend: "python"
max_batch_size: 1
input [{ name: "milliseconds" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { default_queue_policy { $policy } }
CONFIG
  cat >"$work/models/$name/1/model.py" <<'MODEL'
import os
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        self.begun = os.path.join(os.environ["BEGUN"], args["model_name"])

    def execute(self, requests):
        tensors = [utils.get_input_tensor_by_name(r, "milliseconds").as_numpy() for r in requests]
        open(self.begun, "w").close()
        time.sleep(sum(int(t.sum()) for t in tensors) / 1000)
        return [utils.InferenceResponse([utils.Tensor("y", t)]) for t in tensors]
MODEL
done
export BEGUN=$work/begun
mkdir "$BEGUN"
triton_start

"$python" - "$http" <<'ASK' | tee "$work/seen"
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request


def ask(model, milliseconds, **parameters):
    body = {"inputs": [{"name": "milliseconds", "shape": [1, 1], "datatype": "INT32", "data": [milliseconds]}],
            "parameters": parameters}
    url = f"http://127.0.0.1:{sys.argv[1]}/v2/models/{model}/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


for model in ("no_default", "with_default"):
    busy = threading.Thread(target=ask, args=(model, 3000))
    busy.start()
    while not os.path.exists(os.path.join(os.environ["BEGUN"], model)):
        time.sleep(0.02)
    start = time.monotonic()
    status, text = ask(model, 1, timeout=200000)
    print(f"{model}: {status} {text} after {time.monotonic() - start:.1f} s")
    busy.join()
ASK

if grep -q '^no_default: 200 ' "$work/seen" && grep -q '^with_default: 503 .*timeout expired' "$work/seen"; then
  echo "tritonserver 2.51.0: HOLDS (expected: 503 twice)"
else
  echo "STALE: the behaviour has changed"
  exit 1
fi
