# Sourced by the scripts that train on CPUs, after environment.sh. Changes no result.
# A key-value cache is updated in place, not copied at every step.
xla_flags --xla_cpu_copy_insertion_use_region_analysis=true
# What a step frees is kept for the next one. By default glibc returns every large buffer, and has it zeroed again page by
# page: 50,000 page faults a second, 7% of a step.
keep=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-$keep:glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1}
