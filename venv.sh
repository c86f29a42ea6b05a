# Sourced by demo.sh and test.sh: makes .venv beside itself and installs the requirements there, once.
root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
venv=$root/.venv
if ! cmp -s "$root/requirements.txt" "$venv/requirements.txt"; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or newer is needed; this is {sys.version}")'
  echo "installing into $venv: a minute or more, some 6 GB (PyTorch brings its CUDA libraries)"
  python3 -m venv "$venv"
  "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check --requirement "$root/requirements.txt"
  cp "$root/requirements.txt" "$venv/requirements.txt" # only now, so that an interrupted installation is done again
fi
PATH="$venv/bin:$PATH"
hash -r # forget where python3 was
