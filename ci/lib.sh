# Shared by ci/test, ci/demo and ci/lock; sourced, not run. Bash.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Somebody's settings for Python, dask or pytest would make this run another than everybody's.
unset PYTHONPATH PYTHONHOME PYTHONHASHSEED PYTHONOPTIMIZE PYTHONWARNINGS VIRTUAL_ENV PYTEST_ADDOPTS
for name in "${!DASK_@}"; do unset "$name"; done
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Whether an interpreter starts, is new enough and can make environments. A name on PATH proves nothing: it may be
# a version manager's shim that fails, or a Debian Python without ensurepip.
python_runs() { # interpreter, [exact minor version]
    "$1" -I -c '
import sys, ensurepip, venv
exact = sys.argv[1] if len(sys.argv) > 1 else ""
ok = sys.version_info[:2] >= (3, 12) and exact in ("", "%d.%d" % sys.version_info[:2])
sys.exit(0 if ok else 1)' ${2:+"$2"} </dev/null >/dev/null 2>&1
}

# Print the account's home directory. Jobs are given a HOME of their own, and a version manager lies in the account's.
find_home() { (unset HOME && printf '%s\n' ~); }

# Print the path of a Python that really runs: 3.12 or newer, or exactly the given version.
find_python() { # [exact minor version, such as 3.12]
    local exact=${1:-} name dir candidate
    if [ -n "${DASKCACHE_PYTHON:-}" ]; then
        python_runs "$DASKCACHE_PYTHON" "$exact" ||
            die "DASKCACHE_PYTHON=$DASKCACHE_PYTHON does not run, is not Python ${exact:-3.12 or newer}, or lacks ensurepip"
        printf '%s\n' "$DASKCACHE_PYTHON"
        return
    fi
    local -a dirs path_dirs names
    IFS=: read -r -a path_dirs <<<"${PATH:-}"
    shopt -s nullglob
    local home=${HOME:-/nonexistent} account
    account=$(find_home)
    dirs=(
        "${path_dirs[@]}"
        /usr/local/bin /usr/bin /opt/homebrew/bin "$home"/.local/bin
        "${PYENV_ROOT:-$home/.pyenv}"/versions/3.*/bin
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$home/.local/share}/uv/python}"/cpython-3.*/bin
        "$account"/.local/bin "$account"/.pyenv/versions/3.*/bin
        "$account"/.local/share/uv/python/cpython-3.*/bin
        "$home"/{miniforge3,mambaforge,miniconda3,anaconda3,micromamba}{,/envs/*}/bin
        /opt/*/bin /opt/python/*/bin /opt/conda/envs/*/bin /usr/local/opt/python*/bin
    )
    shopt -u nullglob
    # The versions that the lock file was tried with come first.
    if [ -n "$exact" ]; then names=("python$exact" python3); else names=(python3.{12,13,14,15} python3 python); fi
    for name in "${names[@]}"; do
        for dir in "${dirs[@]}"; do
            candidate=${dir:-.}/$name
            if [ -x "$candidate" ] && python_runs "$candidate" "$exact"; then
                printf '%s\n' "$candidate"
                return
            fi
        done
    done
    die "found no Python ${exact:-3.12 or newer} that runs and has ensurepip (looked along PATH and in pyenv's, uv's," \
        "conda's and Homebrew's places). Install one, for example 'uv python install 3.12', 'pyenv install 3.12' or" \
        "'apt-get install python3.12-venv', or set DASKCACHE_PYTHON=/path/to/python3.12"
}

# Make or refresh an environment that holds what a lock file names, and this checkout.
# Sets PY to its interpreter. Does nothing where it is already as it should be.
make_environment() { # purpose, lock file, [exact minor version]
    local purpose=$1 lock=$2 dir=${DASKCACHE_VENV:-$ROOT/.venv-$1} base stamp wanted
    base=$(find_python "${3:-}") || exit 1
    if ! { mkdir -p "$dir" && [ -w "$dir" ]; } 2>/dev/null; then
        dir=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/daskcache/venv-$purpose
        mkdir -p "$dir" || die "cannot make an environment in the checkout or in $dir; set DASKCACHE_VENV"
    fi
    PY=$dir/bin/python
    stamp=$dir/daskcache-stamp
    wanted=$({ "$base" -VV; printf '%s\n' "$base" "$ROOT"; cat "$lock" "$ROOT/pyproject.toml"; } | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$PY" -c 'import daskcache' 2>/dev/null </dev/null; then
        return
    fi
    say "making the environment $dir with $("$base" -V) ($base)"
    rm -f "$stamp"
    "$base" -m venv --clear "$dir" </dev/null >&2 || die "'$base -m venv $dir' failed"
    install_into "$PY" -r "$lock" || die "installing $lock failed"
    # Everything that builds the package is in the lock as well, so nothing is looked up here.
    "$PY" -m pip install -qq --no-deps --no-build-isolation -e "$ROOT" </dev/null >&2 || die "installing daskcache failed"
    printf '%s\n' "$wanted" >"$stamp"
}

install_into() { # interpreter, pip arguments…
    local python=$1
    shift
    # Compiled at once: a run with PYTHONDONTWRITEBYTECODE would otherwise compile everything at every start.
    if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
        uv pip install -q --python "$python" --compile-bytecode --require-hashes "$@" </dev/null >&2 && return
        say "uv could not install; trying pip"
    fi
    "$python" -m pip install -qq --retries 10 --require-hashes "$@" </dev/null >&2
}
