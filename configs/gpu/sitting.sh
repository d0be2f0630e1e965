#!/bin/bash
# A sitting at one GPU: what a person with a GPU and a quarter of an hour runs, most wanted first. Again, it goes on.
#
#   bash configs/gpu/sitting.sh                # about 12 minutes on a GPU
#   MINUTES=30 bash configs/gpu/sitting.sh     # as long as there is
#   DRY=1 bash configs/gpu/sitting.sh          # on a CPU, in minutes: every command at its smallest, to find what would fail
#
# It needs `make install` or, with PYTHON=/path/to/python, another Python with the packages; and CIFAR-10 for the headline.
# Figures go to REPORTS_DIR/sitting, records to RUNS_DIR; what a part of it does is said, and none stops those after it.
set -uo pipefail
cd "$(dirname "$0")/../.."
export WANDB_MODE="${WANDB_MODE:-disabled}"
run=("${PYTHON:-.venv/bin/python}" -m experiments)
out="${REPORTS_DIR:-reports}/sitting"
begun=$SECONDS dry="${DRY:-}" minutes="${MINUTES:-${DRY:+60}}" failed=0
minutes="${minutes:-12}"
mkdir -p "$out"

part() { # name, seconds at most, command …: its output is kept, and the parts after it run whatever becomes of it
  local name="$1" most="$2" left=$((minutes * 60 - SECONDS + begun)) code=0
  shift 2
  [ "$left" -lt 20 ] && { echo "== $name: no time left; the next sitting goes on here"; return; }
  if [ -n "$dry" ] || [ "$most" -gt "$left" ]; then most=$left; fi
  echo "== $name, $most s at most"
  "$@" --stop-after "${most}s" 2>&1 | tee "$out/$name.txt" | tail -n 25
  code=${PIPESTATUS[0]}
  [ "$code" = 0 ] || [ "$code" = 130 ] || { echo "== $name ended with exit status $code"; failed=1; }
}

seeds="[0,1,2]" counts="1 2 4 8" small=()
bench=(--data cifar10_jpeg --recipe small_images --precision bf16 --steps 50 --repeats 5 --grid-cells 20)
if [ -n "$dry" ]; then
  export DEVICE=cpu
  seeds="[0]" counts="1 2"
  small=(recipe.steps=2 recipe.evaluations=1 recipe.precision=fp32 recipe.compile=off)
  bench=(--data digits --recipe digits --steps 2 --repeats 1 --grid-cells 2)
fi
headline=(vit_cifar10_headline "models=[vit_small_image_p4,resnet18_small_stem]")
micro=(vit_small_data "models=[vit_micro_p2,resnet_micro]" "train_fractions=[1.0]" "${small[@]}")

# 1. Does a cell run on the device at all?
part device 60 "${run[@]}" run smoke "seeds=[0]" "train_fractions=[0.1]" --jobs 1

# 2. The harness over the bare step, memory, MFU, and ViT-B/16 at 224 pixels by class of kernel; then by CUDA graphs.
if [ -n "$dry" ]; then
  part bench 120 "${run[@]}" bench vit_micro_p2 "${bench[@]}"
else
  part bench 240 "${run[@]}" bench vit_tiny_p4 vit_small_image_p4 resnet18_small_stem "${bench[@]}" --compile default
  cp "${REPORTS_DIR:-reports}/bench/bench.json" "$out/bench_default.json"
  part graphs 60 "${run[@]}" bench vit_tiny_p4 "${bench[@]}" --compile reduce-overhead
fi

# 3. Cells per hour with 1, 2, 4 and 8 processes on the device: 8 small cells, each time in a new folder of runs.
for jobs in $counts; do
  runs="$(mktemp -d)" from=$SECONDS
  RUNS_DIR="$runs" REPORTS_DIR="$runs" part "jobs_$jobs" 45 "${run[@]}" run "${micro[@]}" "seeds=[0,1,2,3]" "expect=[]" --jobs "$jobs"
  done=$(find "$runs" -name record.json | wc -l)
  echo "$jobs processes: $done of 8 cells in $((SECONDS - from)) s, start included" | tee -a "$out/cells.txt"
  rm -rf "$runs"
done

# 4. The headline, in the order that its file gives.
for fraction in 1.0 0.1; do
  part "headline_$fraction" 3600 "${run[@]}" run "${headline[@]}" "train_fractions=[$fraction]" "seeds=$seeds" "${small[@]}" \
    --jobs "${JOBS:-auto}"
done
echo "== figures: $out; took $((SECONDS - begun)) s"
exit "$failed"
