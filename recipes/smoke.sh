#!/usr/bin/env bash
# Every step of the road on models that are too small to learn much; about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH" # where `make demo` puts the command
out=${1:-runs/smoke}
phonofilm train codec --preset smoke --out "$out"
phonofilm train text --preset smoke --out "$out"
phonofilm train denoiser --preset smoke --out "$out"
phonofilm train timer --preset smoke --out "$out"
phonofilm generate "a red ball bounces" --weights "$out" --seconds 2 --steps 2 -o "$out/smoke.mp4" --sheet
