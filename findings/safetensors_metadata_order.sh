#!/usr/bin/env bash
# safetensors 0.8.0 (0.7.0 does the same), numpy 2.4.6.
# save_file and save sort the tensors, so files look reproducible; the entries of `metadata` are written in the order of
# a hash map with a random seed, which is neither the caller's order nor that of the last call.
# Seen: the same tensors and the same eight metadata entries, saved 5 times in each of 4 processes with PYTHONHASHSEED=0:
# about 20 different files, of the same length and contents. With one entry (transformers' {"format": "pt"}): one file.
# Expected: one file, as without metadata.
# Why it matters: checksums of files that were "made again from the same script" differ, caches and content-addressed
# stores keep every copy, and a test with one metadata key does not show it. Compare tensors and metadata, not bytes, or
# put everything into one entry, as JSON.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet safetensors==0.8.0 numpy==2.4.6

cat >"$work/try.py" <<'TRY'
import numpy as np
from safetensors.numpy import save

tensors = {name: np.ones(4, dtype=np.float32) for name in "zyxwvuts"}
notes = {f"note {letter}": "text" for letter in "abcdefgh"}
for kind, metadata in (("none", None), ("one", {"format": "pt"}), ("eight", notes)):
    for _ in range(5):
        print(kind, save(tensors, metadata=metadata).hex())
TRY
for _ in 1 2 3 4; do
  PYTHONHASHSEED=0 "$work/venv/bin/python" "$work/try.py" >>"$work/files"
done

"$work/venv/bin/python" - "$work/files" <<'TRY'
import importlib.metadata
import json
import sys

print("safetensors", importlib.metadata.version("safetensors"))
different = {}
for line in open(sys.argv[1]):
    kind, data = line.split()
    different.setdefault(kind, set()).add(bytes.fromhex(data))
for kind, files in different.items():
    print(f"20 saves with {kind} of metadata's entries: {len(files)} different files")
orders = ["".join(key[-1] for key in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"])
          for data in sorted(different["eight"])]
print("orders of the eight:", *orders[:5], "...")

# Equal but for the order: the header's values, and what follows it.
contents = {json.dumps(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]), sort_keys=True)
            for data in different["eight"]}
holds = len(different["none"]) == len(different["one"]) == len(contents) == 1 and len(different["eight"]) > 5
print("HOLDS (expected: 1 each time)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
