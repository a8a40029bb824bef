#!/usr/bin/env bash
# Gradescope runs this once, when the image is built. It can be run again: what is there already is left alone.
set -euo pipefail
root=${AUTOGRADER_ROOT:-/autograder}
venv=${AUTOGRADER_VENV:-/opt/autograder}
python=${AUTOGRADER_PYTHON:-$venv/bin/python}
source=$root/source

say() { printf 'setup.sh: %s\n' "$*"; }
trap 'say "FAILED at line $LINENO: $BASH_COMMAND. Submissions cannot be graded with this image." >&2' ERR

if command -v bwrap >/dev/null && { [ -x "$python" ] || python3 -c 'import ensurepip' 2>/dev/null; }; then
  say "bubblewrap and Python are there"
else
  say "installing bubblewrap and Python"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends bubblewrap python3 python3-venv python3-pip
fi

if [ ! -x "$python" ]; then
  say "making a virtual environment in $venv"
  python3 -m venv "$venv"
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  say "$("$python" --version) is too old: choose an image of Ubuntu 22.04 or newer" >&2
  false
}

if (cd "$source" && "$python" -B -m autograder.gradescope ready 2>/dev/null); then
  say "the Python packages are there"
else
  say "installing Python packages"
  "$python" -m pip install --quiet --disable-pip-version-check \
    $(cat "$source/pip-options.txt" 2>/dev/null) -r "$source/requirements.txt"
  (cd "$source" && "$python" -B -m autograder.gradescope ready)
fi

# What only the grader may read. Workers see nothing of this folder anyway; this is the second lock.
chmod -R go-rwx "$source/problem_sets" "$source/secret" "$source/config.json"
(cd "$source" && "$python" -B -m autograder.gradescope levels)
say "done"
