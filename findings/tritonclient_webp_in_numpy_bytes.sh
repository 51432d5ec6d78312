#!/usr/bin/env bash
# tritonclient 2.73.0 (HTTP), numpy 2.4.6, pillow 13.0.0 (libwebp).
# np.array([data]) of a bytes object has numpy's fixed-width type S, which takes zero bytes at the end for padding.
# tritonclient accepts such an array for a BYTES input and sends what numpy hands out. PNG and JPEG end in a byte that
# is never 0, so they are sent whole; a WebP file may end in 0 (all of these do) and is sent shorter.
# Seen: PNG 40 of 40 whole, JPEG 40 of 40 whole, WebP 0 of 40; Pillow refuses each of the shorter ones; the same
# bytes in an array with dtype=object: all whole.
# Expected: set_data_from_numpy sends the bytes it was given whatever they end in, or refuses type S.
# Why it matters: a client tested with PNG loses the last byte of each WebP (and of other binary data, such as
# safetensors, that ends in zeros) without an error; the server then blames the client's file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'tritonclient[http]==2.73.0' numpy==2.4.6 pillow==13.0.0

"$work/venv/bin/python" - <<'TRY'
import importlib.metadata
import io
import sys

import numpy as np
import tritonclient.http
from PIL import Image, features
from tritonclient.utils import deserialize_bytes_tensor

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("tritonclient", "numpy", "pillow")),
      "libwebp", features.version("webp"))


def sent(array):
    tensor = tritonclient.http.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(array)
    # what the client puts behind its JSON header: a length and the bytes
    return bytes(deserialize_bytes_tensor(tensor._get_binary_data())[0])


def opens(data):
    try:
        Image.open(io.BytesIO(data)).load()
        return True
    except OSError:
        return False


counts = {}
for kind in ("PNG", "JPEG", "WEBP"):
    whole = as_object = shorter_opens = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).integers(0, 256, (16 + seed, 24, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, kind)
        data = file.getvalue()
        assert opens(data)
        got = sent(np.array([data]))
        whole += got == data
        shorter_opens += got != data and opens(got)
        as_object += sent(np.array([data], dtype=object)) == data
    counts[kind] = (whole, shorter_opens, as_object)
    print(f"{kind}: whole {whole} of 40, cut but still readable {shorter_opens}, whole with dtype=object {as_object}")

holds = (counts["PNG"] == counts["JPEG"] == (40, 0, 40)) and counts["WEBP"][0] < 40 and counts["WEBP"][2] == 40
print("HOLDS (expected: 40 of 40 whole each time)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
