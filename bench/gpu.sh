#!/usr/bin/env bash
# Runs the tests on a GPU, then measures times; logs go to LOGS. It needs a build for that GPU.
#   bench/gpu.sh BUILD LOGS [tests] [sanitizer] [checkpoint] [times] [first-image] [interrupt]
#                           [memory] [equality] [profile] [diffusers] [compiled] [compiled-fp8]
#                           [serving-tests] [serving] [against]
# Without named steps it runs all but compiled-fp8, for which torchao must be there, and against,
# which alternates between the build AGAINST and this one: cards differ by more than builds do. FULL
# is where the 33 GB checkpoint is, or is made. The serving steps need SERVING_PACKAGES: a directory
# of Python packages for $FLUX_REFERENCE_PYTHON, with pytest, tritonclient[http,grpc] and, from
# nvidia-pytriton, pytriton/tritonserver/bin/tritonserver and nvidia_pytriton.libs. SERVING_SECONDS is
# the time for each number of clients.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1
logs=$2
shift 2
steps="${*:-tests sanitizer checkpoint times first-image interrupt memory equality profile}"
steps="${*:-$steps diffusers compiled serving-tests serving}"
full=${FULL:-/dev/shm/flux-full}
python=${FLUX_REFERENCE_PYTHON:-python3}
flux=$build/cli/flux-triton
tiny=tests/golden/checkpoints
mkdir -p "$logs"

# Writes the GPU's clock, power and memory in use every 0.2 s until the shell ends.
watch_gpu() {
  nvidia-smi --query-gpu=clocks.sm,power.draw,memory.used --format=csv,noheader,nounits \
    --loop-ms=200 >"$1" &
  trap "kill $!" EXIT
}
# Prints the median clock at more than half of the highest power, and the most memory.
gpu_summary() {
  sort -t, -k2 -n "$1" | awk -F', ' '{clock[NR] = $1; power[NR] = $2; if ($3 > most) most = $3}
    END {first = 1; while (power[first] < power[NR] / 2) ++first; at = int((first + NR) / 2)
      print "at work: " clock[at] " MHz, " power[at] " W; most GPU memory: " most " MiB"}'
}

has_step() { [[ " $steps " == *" $1 "* ]]; }
# Runs a command with a log of its own; prints how it ended and how long it took.
logged() {
  local name=$1 start=$SECONDS
  shift
  timeout "${LIMIT:-240}" "$@" >"$logs/$name.log" 2>&1
  echo "$name: exit code $?, $((SECONDS - start)) s"
}
ms_since() { echo $((($(date +%s%N) - $1) / 1000000)); }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
if has_step tests; then
  logged ops "$build/tests/ops_test" --gtest_filter='*Cuda*' --gtest_brief=1
  logged golden "$build/tests/pipeline_test" --gtest_filter='*_cuda' --gtest_brief=1
  grep -hE "Failure|FAILED|PASSED" "$logs/ops.log" "$logs/golden.log" | sort | uniq -c | tail -40
fi
if has_step sanitizer; then
  generate=("$flux" generate "$tiny/tiny-dev" --device cuda --prompt x --steps 2 -o /tmp/flux.png)
  for tool in memcheck racecheck; do
    logged "$tool" compute-sanitizer --tool $tool "${generate[@]}" --seed 1 --height 64 --width 64
    tail -n 1 "$logs/$tool.log"
    logged "$tool-ops" compute-sanitizer --tool $tool "$build/tests/ops_test" \
      --gtest_filter='*CudaOps*' --gtest_brief=1
    tail -n 1 "$logs/$tool-ops.log"
  done
fi
if has_step checkpoint && [[ ! -e $full/model_index.json ]]; then
  rm -rf "$full"
  logged checkpoint "$python" bench/reference/make_full_checkpoint.py --tokenizers demo/shapes \
    --output "$full"
fi
# time_images FLUX NAME SIDE STEPS IMAGES RUNS TEXT_TOKENS
time_images() {
  logged "$2" "$1" bench "$full" --device cuda --dtype bf16 --runs "$6" --height "$3" --width "$3" \
    --steps "$4" --images "$5" --max-sequence-length "$7"
}
if has_step times; then
  watch_gpu "$logs/gpu.csv"
  # Side, steps, images, runs, text tokens. FLUX.1-schnell is used with 4 steps and 256 tokens.
  for case in "1024 28 1 3 512" "1024 4 1 5 256" "512 28 1 5 512" "512 28 4 2 512" "256 4 1 9 256"; do
    read -r size count images runs tokens <<<"$case"
    name=time-$size-$count-$images
    time_images "$flux" "$name" "$size" "$count" "$images" "$runs" "$tokens"
    cat "$logs/$name.log"
  done
  gpu_summary "$logs/gpu.csv"
fi
if has_step against; then
  for turn in 1 2; do
    for case in "1024 28 1 3 512" "512 28 1 5 512" "512 28 4 1 512"; do
      read -r size count images runs tokens <<<"$case"
      for which in other this; do
        timed=$build
        [[ $which == other ]] && timed=${AGAINST:?the other build}
        name=against-$turn-$size-$images-$which
        time_images "$timed/cli/flux-triton" "$name" "$size" "$count" "$images" "$runs" "$tokens"
        grep -hE "dit_transformer|whole image" "$logs/$name.log"
      done
    done
  done
fi
if has_step first-image; then
  start=$(date +%s%N)
  logged first-image "$flux" generate "$full" --device cuda --dtype bf16 --prompt "a star" --seed 1 \
    --steps 4 -o /tmp/flux.png
  echo "from process start to the first image: $(ms_since "$start") ms"
  tail -n 3 "$logs/first-image.log"
fi
if has_step interrupt; then
  # Ctrl-C in the middle of many steps. The time includes the driver reclaiming the memory.
  "$flux" generate "$full" --device cuda --dtype bf16 --prompt "a star" --seed 1 --steps 900 \
    -o /tmp/flux-interrupted.png >"$logs/interrupt.log" 2>&1 &
  generating=$!
  sleep 15
  start=$(date +%s%N)
  kill -INT $generating
  wait $generating
  echo "interrupted: exit code $?, $(ms_since "$start") ms after Ctrl-C"
  tail -n 1 "$logs/interrupt.log"
fi
if has_step memory; then
  # The same image with room for the transformer alone, in tiles, and with too little room.
  generate=("$flux" generate "$full" --device cuda --dtype bf16 --prompt "a star" --seed 1)
  generate+=(--steps 2)
  logged memory-all "${generate[@]}" -o /tmp/flux-all.png
  for limit in 24GiB 23GiB 10GiB; do
    watch_gpu "$logs/memory-$limit.csv"
    logged "memory-$limit" "${generate[@]}" --gpu-memory $limit -o "/tmp/flux-$limit.png"
    kill %%
    gpu_summary "$logs/memory-$limit.csv"
    tail -n 3 "$logs/memory-$limit.log"
    cmp /tmp/flux-all.png "/tmp/flux-$limit.png" && echo "the same bytes as without a limit"
  done
fi
if has_step equality; then
  logged equality "$python" bench/gpu_equality.py "$full" --flux-triton "$flux"
  tail -n 1 "$logs/equality.log"
fi
if has_step profile; then
  # A step of each size in the middle of a run, when the GPU is at its power limit.
  for size in 1024 512 256; do
    trace=/tmp/flux-kernels-$size
    rm -f "$trace"  # else an earlier run's trace would be read if this one fails
    KERNEL_TRACE=$trace CUDA_INJECTION64_PATH=$build/bench/libkernel_trace.so \
      time_images "$flux" "profile-$size" "$size" 28 1 1 512
    "$python" bench/kernel_profile.py "$trace" | tee "$logs/profile-$size.txt"
    rm -f "$trace"
  done
fi
time_diffusers() {
  logged "$1" "$python" bench/reference/time_diffusers.py "$full" --device cuda --dtype bf16 \
    --height 1024 --width 1024 --steps 28 --runs 3 --threads 8 "${@:2}"
  tail -n 1 "$logs/$1.log"
}
if has_step diffusers; then time_diffusers diffusers; fi
if has_step compiled; then LIMIT=400 time_diffusers compiled --compile whole; fi
if has_step compiled-fp8; then
  LIMIT=400 time_diffusers compiled-fp8 --compile blocks --quantization fp8
fi
if [[ -n ${SERVING_PACKAGES:-} ]]; then
  # Runs a command with the server and its clients in its environment.
  served=(env PYTHONPATH="$SERVING_PACKAGES" FLUX_TRITON="$flux" FLUX_BACKENDS="$build/backends"
    TRITONSERVER="$SERVING_PACKAGES/pytriton/tritonserver/bin/tritonserver")
  pytest=("$python" -m pytest -q -rs -p no:cacheprovider)
  if has_step serving-tests; then
    LIMIT=400 logged serving-gpu "${served[@]}" "${pytest[@]}" \
      tests/serving/test_gpu{,_memory}.py
    tail -n 3 "$logs/serving-gpu.log"
    LIMIT=400 logged serving-contract "${served[@]}" FLUX_TEST_DEVICE=cuda "${pytest[@]}" \
      tests/serving/test_{contract,stages,errors,lifecycle,load}.py
    tail -n 3 "$logs/serving-contract.log"
  fi
  if has_step serving; then
    LIMIT=560 logged serving "${served[@]}" "$python" bench/gpu_serving.py "$full" \
      --program "$flux" --seconds "${SERVING_SECONDS:-15}"
    cat "$logs/serving.log"
  fi
fi
