#!/usr/bin/env bash
# The course's graders run hw1_download.sh under this name.
exec bash "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/hw1_download.sh" "$@"
