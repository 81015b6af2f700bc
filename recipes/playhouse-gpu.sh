#!/usr/bin/env bash
# The whole road of the preset playhouse-gpu on one GPU of 80 GB: goes on from the shipped weights, all parts at once.
# From nothing: the four steps of playhouse-cpu.sh with this preset instead.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH" # where `make demo` puts the command
out=${1:-runs/playhouse-gpu}
[ -e "$out/denoiser.safetensors" ] || phonofilm train all --preset playhouse-gpu --out "$out"
phonofilm evaluate --weights "$out" --prompts 500 --out "$out/evaluation"
