# Sourced by the scripts that train on CPUs, after environment.sh. Changes no result.
# A key-value cache is updated in place, not copied at every step; LLVM's first level takes four fifths of the time to
# compile what is as fast: most of it is calls of a library.
xla_flags "--xla_cpu_copy_insertion_use_region_analysis=true --xla_backend_optimization_level=1"
# What a step frees is kept for the next one. By default glibc returns every large buffer, and has it zeroed again page by
# page: 50,000 page faults a second, 7% of a step.
keep=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-$keep:glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1}
# pin N: sets the array `pinned`, what to put before a command for it to have the N-th of this shell's cores, and one thread:
# more only take turns. Empty where the system cannot.
pin() {
  local cores
  pinned=()
  command -v taskset > /dev/null || return 0
  cores=($("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)))'))
  pinned=(env NPROC=1 taskset -c "${cores[$1 % ${#cores[@]}]}")
}
export -f pin
