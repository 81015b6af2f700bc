#!/usr/bin/env bash
# The whole road of the preset playhouse-gpu: codec, text, denoiser, evaluation. Run it again to go on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/playhouse}
phonofilm train codec --preset playhouse-gpu --out "$out"
phonofilm train text --preset playhouse-gpu --out "$out"
phonofilm train denoiser --preset playhouse-gpu --out "$out"
phonofilm evaluate --weights "$out" --prompts 500 --out "$out/evaluation"
