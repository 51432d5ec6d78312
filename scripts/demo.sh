#!/usr/bin/env bash
# Draws a picture with the demo checkpoint.   scripts/demo.sh path/to/flux-triton
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p out
exec "$1" generate demo/shapes \
  --prompt "${PROMPT:-a large red circle on the left on a yellow background}" \
  --height 128 --width 128 --steps 28 --seed "${SEED:-3}" --max-sequence-length 64 \
  --dtype f32 --output out/demo.png
