#!/usr/bin/env bash
# Get weights and data: bash hw1_download.sh [checkpoints|pretrained|data] [NAME]    --help says more
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
HW1_PROGRAM=hw1_download.sh PYTHONUTF8=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/checkpoints/download.py" "$@"
