#!/usr/bin/env bash
# Problem 3: bash hw1_3.sh <image folder> <output folder>    more options: --help
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# With a single malloc arena, a thread can reuse memory that another thread has freed.
export HW1_PROGRAM=hw1_3.sh PYTHONUTF8=1 MALLOC_ARENA_MAX=1
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/p3/inference.py" "$@"
