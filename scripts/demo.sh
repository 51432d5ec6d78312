#!/usr/bin/env bash
# Generates with the demo checkpoint: one image in this process, then a few through a Triton server.
#   scripts/demo.sh path/to/flux-triton
# PROMPT and SEED in the environment replace those of the first image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p out
"$1" generate demo/shapes \
  --prompt "${PROMPT:-a large red circle on the left on a yellow background}" \
  --height 128 --width 128 --steps 28 --seed "${SEED:-3}" --max-sequence-length 64 \
  --dtype f32 --output out/demo.png
scripts/serving_venv.sh
exec .venv-serving/bin/python scripts/demo_serving.py --program "$1" --output out
