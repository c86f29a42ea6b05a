# Sourced by demo.sh and test.sh. Makes .venv next to this file and installs there, once, the
# packages that the files in the array $requirements list.
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
venv=$root/.venv
lists=() installed=true
for file in "${requirements[@]}"; do
  lists+=(--requirement "$root/$file")
  cmp -s "$root/$file" "$venv/$file" || installed=false
done
if ! $installed; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or newer is needed; this is {sys.version}")'
  echo "creating $venv"
  python3 -m venv "$venv"
  # uv is ten times as fast, but ignores pip's own configuration: indexes, folders of wheels,
  # constraints.
  installer=("$venv/bin/python3" -m pip install --disable-pip-version-check)
  if command -v uv >/dev/null && ! python3 -m pip config list 2>/dev/null | grep -qE 'index|find-links|constraint'; then
    installer=(uv pip install --python "$venv/bin/python3")
  fi
  echo "installing ${requirements[*]}: a minute or more, about 6 GB with CUDA; 1 GB if PyTorch without CUDA is already in .venv"
  # Without a terminal, pip and uv print nothing while they download and copy.
  (while sleep 8 &>/dev/null; do echo "still installing: $SECONDS s so far"; done) &
  still=$!
  trap 'kill "$still"' EXIT # also after an error or Ctrl-C
  "${installer[@]}" "${lists[@]}"
  trap - EXIT
  kill "$still"
  wait "$still" 2>/dev/null || true # otherwise bash reports that it was killed
  for file in "${requirements[@]}"; do
    cp "$root/$file" "$venv/$file" # only now, so that an interrupted installation is repeated
  done
  echo "installed in $SECONDS s"
fi
PATH="$venv/bin:$PATH"
hash -r # forget where python3 was
