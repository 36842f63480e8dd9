#!/usr/bin/env bash
# One GPU of 24 GB: the language model in 4 bits with LoRA. BASE is Qwen-VL in this library's layout, see README.md.
set -euo pipefail

.venv/bin/monkeylib train --profile paper-896-qlora --data "${DATA:-paper-1.44M}" --base "${BASE:?}" \
    --out "${OUT:-data/runs/paper-896-qlora/monkey}" "$@"
