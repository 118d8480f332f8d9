#!/usr/bin/env bash
# Builds the package, installs it in a folder of its own and runs every test once on it, from another directory.
# Needs only Python >= 3.11; everything goes into .venv. Usage: bash launch/test.sh [pytest arguments]
# Two processes share the files; "-n 0" runs all in one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/environment.sh"
# Compiles in a third of the time what runs for a moment.
xla_flags "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
export PYTHONPATH=$wheels/installed${PYTHONPATH:+:$PYTHONPATH}
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$root"
"$python" -m pip install --quiet --no-deps --target "$wheels/installed" "$wheels"/ega_jax-*.whl
# Away from the checkout, so that what is tested is what was installed.
cd "$wheels"
"$python" -c 'import ega_jax, launch, sys; sys.exit(not all("/installed/" in one.__path__[0] for one in (ega_jax, launch)))'
"$python" -m pytest "$root/tests" -p no:cacheprovider --durations=15 -n 2 --dist loadfile "$@"
