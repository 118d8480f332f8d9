# Sourced by the scripts that train on CPUs, after environment.sh: settings that save time and change no result.
# On CPUs a key-value cache is then updated in place, not copied at every step. An older or later XLA may not know it.
in_place=--xla_cpu_copy_insertion_use_region_analysis=true
if [ -z "${XLA_FLAGS+set}" ] && JAX_PLATFORMS=cpu XLA_FLAGS=$in_place "$python" -c 'import jax; jax.devices()' 2>/dev/null
then
  export XLA_FLAGS=$in_place
fi
# glibc would give the buffers of a step back after each and fault them in anew: a quarter of the time of small models.
tunables=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456
export GLIBC_TUNABLES=${GLIBC_TUNABLES-$tunables}
