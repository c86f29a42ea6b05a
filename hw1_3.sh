#!/usr/bin/env bash
# Problem 3: bash hw1_3.sh <image folder> <output folder> [--checkpoint FILE] [--device auto|cpu|cuda] [--batch-size N]
HW1_PROGRAM=hw1_3.sh exec python3 "$(dirname -- "${BASH_SOURCE[0]}")/p3/inference.py" "$@"
