# Sourced by the other scripts: makes $root/.venv with the package's dependencies, sets $python and the compilation cache.
interpreter=${PYTHON:-python3}
"$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "ega_jax needs Python >= 3.11; $interpreter is $("$interpreter" --version). Set PYTHON to a newer one." >&2
  exit 2
}
python=$root/.venv/bin/python
[ -x "$python" ] || "$interpreter" -m venv "$root/.venv"
# The stamp holds what was installed: a changed setup.cfg installs again, an unchanged one does not ask a registry.
stamp=$root/.venv/installed.cfg
if ! cmp -s "$root/setup.cfg" "$stamp"; then
  # Editable: a script of one's own in another folder runs the code of the checkout, too.
  "$python" -m pip install --quiet --disable-pip-version-check --editable "$root[test]"
  cp "$root/setup.cfg" "$stamp"
fi
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-$root}/.cache}/ega_jax}
# xla_flags FLAGS: exports them as XLA_FLAGS where none are set, if this XLA knows them.
xla_flags() {
  if [ -z "${XLA_FLAGS+set}" ] && JAX_PLATFORMS=cpu XLA_FLAGS=$1 "$python" -c 'import jax; jax.devices()' 2>/dev/null
  then
    export XLA_FLAGS=$1
  fi
}
