#!/usr/bin/env bash
# Problem 1: bash hw1_1.sh <image folder> <output.csv>    more options: --help
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# With a single malloc arena, a thread can reuse memory that another thread has freed.
export HW1_PROGRAM=hw1_1.sh PYTHONUTF8=1 MALLOC_ARENA_MAX=1
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$root/p1/inference.py" "$@"
