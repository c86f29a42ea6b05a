#!/usr/bin/env bash
# Problem 2: bash hw1_2.sh <images.csv> <image folder> <output.csv> [--checkpoint FILE] [--device auto|cpu|cuda] [--batch-size N]
HW1_PROGRAM=hw1_2.sh exec python3 "$(dirname -- "${BASH_SOURCE[0]}")/p2/inference.py" "$@"
