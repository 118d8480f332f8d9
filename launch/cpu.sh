# Sourced by the scripts that train on CPUs, after environment.sh: a key-value cache is updated in place, not copied at
# every step, if this XLA knows the flag. It changes no result.
in_place=--xla_cpu_copy_insertion_use_region_analysis=true
if [ -z "${XLA_FLAGS+set}" ] && JAX_PLATFORMS=cpu XLA_FLAGS=$in_place "$python" -c 'import jax; jax.devices()' 2>/dev/null
then
  export XLA_FLAGS=$in_place
fi
