#!/usr/bin/env bash
# The name by which the course's graders run hw1_download.sh.
exec bash "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/hw1_download.sh" "$@"
