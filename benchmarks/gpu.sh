#!/usr/bin/env bash
# Measures Monkey at the paper's size on a GPU, with random weights in bfloat16 (19 GB): at most 8 minutes.
#
#     benchmarks/gpu.sh                              # with the environment of `make install`
#     PYTHON=python3 OUT=/tmp/results benchmarks/gpu.sh
#     benchmarks/gpu.sh --tiny --device cpu          # tries every step at a tiny size, in seconds
#
# Rows are appended to $OUT/gpu.jsonl as they are measured, so that a run that is cut leaves those it has.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-benchmarks/results}
exec timeout --kill-after=10 480 "$PYTHON" benchmarks/gpu.py --out "$OUT" "$@"
