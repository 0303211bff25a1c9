#include "host/base/node.h"

#include <hwloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* First number of a file; `missing` when there is none (a limit of "max" is none). */
static int64_t number_in(const char *path, int64_t missing) {
    FILE *file = fopen(path, "r");
    if (!file) return missing;
    long long value = 0;
    const int read = fscanf(file, "%lld", &value);
    fclose(file);
    return read == 1 ? (int64_t)value : missing;
}

/* Processors' worth of time that the control group allows, rounded up; `most` when unlimited. A
 * thread pool wider than this is throttled, not merely slowed. */
static int32_t quota(int32_t most) {
    long long quota_us = 0, period_us = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file) {
        const int read = fscanf(file, "%lld %lld", &quota_us, &period_us);
        fclose(file);
        if (read != 2) return most;
    } else {
        quota_us = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1);
        period_us = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
    }
    if (quota_us <= 0 || period_us <= 0) return most;
    const long long processors = (quota_us + period_us - 1) / period_us;
    return processors < most ? (int32_t)processors : most;
}

int32_t wf_cores_granted(void) {
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return quota(online > 0 ? (int32_t)online : 1);
}

wf_status wf_cores_find(wf_cores *out) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return wf_fail(WF_ERR_INTERNAL, "hwloc_topology_init failed");
    hwloc_cpuset_t bound = hwloc_bitmap_alloc();
    wf_status status = WF_OK;
    if (!bound || hwloc_topology_load(topology) != 0) {
        status = wf_fail(WF_ERR_INTERNAL, "hwloc could not read this machine's topology");
    } else {
        hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology);
        const int all = hwloc_bitmap_weight(allowed);
        int mine = all;
        if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) == 0) {
            hwloc_bitmap_and(bound, bound, allowed);
            if (!hwloc_bitmap_iszero(bound)) mine = hwloc_bitmap_weight(bound);
        }
        out->node = quota(all > 0 ? all : 1);
        out->bound = mine < out->node ? mine : out->node;
    }
    if (bound) hwloc_bitmap_free(bound);
    hwloc_topology_destroy(topology);
    return status;
}

wf_share wf_share_of(int32_t units, int32_t rank, int32_t ranks) {
    if (ranks < 1) ranks = 1;
    if (units <= ranks) return (wf_share){units > 0 ? rank % units : 0, 1};
    const int32_t first = (int32_t)((int64_t)units * rank / ranks);
    const int32_t end = (int32_t)((int64_t)units * (rank + 1) / ranks);
    return (wf_share){first, end - first};
}

/* The number after `key` in a file of "key number" lines; `missing` when there is none. */
static int64_t number_after(const char *path, const char *key, int64_t missing) {
    FILE *file = fopen(path, "r");
    if (!file) return missing;
    char line[256];
    long long value = 0;
    int64_t found = missing;
    const size_t length = strlen(key);
    while (found == missing && fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0 && sscanf(line + length, " %lld", &value) == 1) found = value;
    fclose(file);
    return found;
}

int64_t wf_host_free_bytes(void) {
    static const struct {
        const char *limit, *used, *statistics, *cache; /* cached files are given back on demand */
    } groups[] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "file "},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
         "/sys/fs/cgroup/memory/memory.stat", "total_cache "},
    };
    const int64_t kibibytes = number_after("/proc/meminfo", "MemAvailable:", -1);
    int64_t free_bytes = kibibytes < 0 ? INT64_MAX : kibibytes * 1024;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        const int64_t limit = number_in(groups[i].limit, INT64_MAX);
        if (limit == INT64_MAX) continue;
        const int64_t held = number_in(groups[i].used, 0), cached = number_after(groups[i].statistics, groups[i].cache, 0);
        const int64_t used = held > cached ? held - cached : 0; /* read one after the other: either may be the larger */
        const int64_t left = limit > used ? limit - used : 0;
        if (left < free_bytes) free_bytes = left;
    }
    return free_bytes;
}
