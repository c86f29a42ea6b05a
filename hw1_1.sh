#!/usr/bin/env bash
# Problem 1: bash hw1_1.sh <image folder> <output.csv> [--checkpoint FILE] [--device auto|cpu|cuda] [--batch-size N]
HW1_PROGRAM=hw1_1.sh exec python3 "$(dirname -- "${BASH_SOURCE[0]}")/p1/inference.py" "$@"
