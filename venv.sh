# Sourced by demo.sh and test.sh: makes .venv beside itself and installs there, once, what the files named by the array
# $requirements list.
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
venv=$root/.venv
lists=() installed=true
for file in "${requirements[@]}"; do
  lists+=(--requirement "$root/$file")
  cmp -s "$root/$file" "$venv/$file" || installed=false
done
if ! $installed; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or newer is needed; this is {sys.version}")'
  echo "installing ${requirements[*]} into $venv: a minute or more, some 6 GB (PyTorch brings its CUDA libraries)"
  python3 -m venv "$venv"
  # uv is ten times as fast, but knows nothing of pip's own configuration: indexes, folders of wheels, constraints.
  if command -v uv >/dev/null && ! python3 -m pip config list 2>/dev/null | grep -qE 'index|find-links|constraint'; then
    uv pip install --python "$venv/bin/python3" "${lists[@]}"
  else
    "$venv/bin/python3" -m pip install --disable-pip-version-check "${lists[@]}"
  fi
  for file in "${requirements[@]}"; do
    cp "$root/$file" "$venv/$file" # only now, so that an interrupted installation is done again
  done
fi
PATH="$venv/bin:$PATH"
hash -r # forget where python3 was
