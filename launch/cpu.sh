# Sourced by the scripts that train on CPUs, after environment.sh: a key-value cache is updated in place, not copied at
# every step. It changes no result.
xla_flags --xla_cpu_copy_insertion_use_region_analysis=true
