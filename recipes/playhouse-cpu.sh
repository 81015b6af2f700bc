#!/usr/bin/env bash
# The whole road of the preset playhouse-cpu: codec, text, denoiser, timer, evaluation. Run it again to go on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH" # where `make demo` puts the command
out=${1:-runs/playhouse}
phonofilm train codec --preset playhouse-cpu --out "$out"
phonofilm train text --preset playhouse-cpu --out "$out"
phonofilm train denoiser --preset playhouse-cpu --out "$out"
phonofilm train timer --preset playhouse-cpu --out "$out"
phonofilm evaluate --weights "$out" --prompts 500 --workers 2 --out "$out/evaluation"
