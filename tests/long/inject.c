/* inject.c: see the header. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#include "tests/long/inject.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <jansson.h>
#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "host/device/calls.h"

const char *const inject_names[INJECT_KINDS] = {"none", "cl", "mpi", "mpi-test", "memory", "share", "system", "give-up"};

static _Thread_local struct {
    inject_kind kind;
    int64_t at, made[INJECT_KINDS];
    bool fired, tracking, gave_up, recording;
    int64_t give_up_at, give_ups;
    double fired_s;
} mine;

/* ---- sites -------------------------------------------------------------------------------------------------- */

static _Thread_local struct {
    uint64_t site[INJECT_SITES];
    int64_t first[INJECT_SITES];
    int n;
} recorded[INJECT_KINDS];

void inject_record(void) {
    memset(recorded, 0, sizeof recorded);
    mine.recording = true;
}

int inject_sites(inject_kind kind, int64_t firsts_out[INJECT_SITES]) {
    memcpy(firsts_out, recorded[kind].first, sizeof recorded[kind].first);
    return recorded[kind].n;
}

static void record(inject_kind kind) {
    enum { OWN = 3, DEPTH = OWN + 6 }; /* own: record, fails and the wrapper */
    void *frame[DEPTH];
    uint64_t site = 0;
    mine.recording = false; /* the unwinder may allocate */
    const int depth = backtrace(frame, DEPTH);
    mine.recording = true;
    for (int i = OWN; i < depth; i++) site = (site ^ (uint64_t)(uintptr_t)frame[i]) * 0x9E3779B97F4A7C15u;
    int i = 0;
    while (i < recorded[kind].n && recorded[kind].site[i] != site) i++;
    if (i < recorded[kind].n) return;
    if (i == INJECT_SITES) fputs("inject: more sites than there is room for\n", stderr), abort();
    recorded[kind].site[i] = site;
    recorded[kind].first[i] = mine.made[kind];
    recorded[kind].n++;
}

/* ---- the fault ---------------------------------------------------------------------------------------------- */

void inject_arm(inject_kind kind, int64_t at) {
    mine.kind = kind;
    mine.at = at;
    memset(mine.made, 0, sizeof mine.made);
    mine.fired = false;
}

bool inject_disarm(int64_t made_out[INJECT_KINDS]) {
    memcpy(made_out, mine.made, sizeof mine.made);
    mine.recording = false;
    mine.kind = INJECT_NONE;
    return mine.fired;
}

double inject_fired_s(void) {
    return mine.fired_s;
}

static bool fails(inject_kind kind) {
    mine.made[kind]++;
    if (mine.recording) record(kind);
    if (mine.made[kind] != mine.at || mine.kind != kind) return false;
    mine.fired = true;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    mine.fired_s = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return true;
}

/* ---- memory of weft's own that is alive --------------------------------------------------------------------- */

enum { SLOTS = 1 << 16 };
typedef struct block {
    void *at, *caller;
    size_t bytes;
} block;
static block blocks[SLOTS]; /* open addressing; at == GONE: was here */
static void *const GONE = (void *)1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t objects[8];
static int nblocks;

static size_t slot_of(const void *at) {
    return (size_t)(((uintptr_t)at >> 4) * 0x9E3779B97F4A7C15u >> 40) % SLOTS;
}

static void remember(void *at, size_t bytes, void *caller) {
    if (!at || !mine.tracking) return;
    pthread_mutex_lock(&lock);
    size_t i = slot_of(at);
    while (blocks[i].at && blocks[i].at != GONE && blocks[i].at != at) i = (i + 1) % SLOTS;
    nblocks += blocks[i].at != at;
    blocks[i] = (block){at, caller, bytes};
    pthread_mutex_unlock(&lock);
    if (nblocks > SLOTS / 2) fputs("inject: too many blocks to track\n", stderr), abort();
}

static void forget(void *at) {
    if (!at || !__atomic_load_n(&nblocks, __ATOMIC_RELAXED)) return;
    pthread_mutex_lock(&lock);
    for (size_t i = slot_of(at); blocks[i].at; i = (i + 1) % SLOTS) {
        if (blocks[i].at != at) continue;
        blocks[i].at = GONE;
        nblocks--;
        break;
    }
    pthread_mutex_unlock(&lock);
}

static const char *const object_names[] = {"context", "queue", "buffer", "program", "kernel", "communicator", "mapping"};
enum { CONTEXT, QUEUE, BUFFER, PROGRAM, KERNEL, COMMUNICATOR, MAPPING, OBJECTS };

static void count(int object, int64_t more) {
    if (mine.tracking) __atomic_add_fetch(&objects[object], more, __ATOMIC_RELAXED);
}

static void reset(void) {
    pthread_mutex_lock(&lock);
    memset(blocks, 0, sizeof blocks);
    memset(objects, 0, sizeof objects);
    nblocks = 0;
    pthread_mutex_unlock(&lock);
}

void inject_track(void) {
    reset();
    mine.tracking = true;
    mine.give_up_at = 0;
    mine.gave_up = false;
}

void inject_arm_give_up(int64_t at) {
    mine.give_up_at = at;
    mine.give_ups = 0;
}

static bool gives_up(void) {
    if (++mine.give_ups != mine.give_up_at) return false;
    return mine.gave_up = true;
}

/* ---- requests that MPI is not through with ----------------------------------------------------------------------- */

enum { REQUESTS = 4096 };
typedef struct pending {
    MPI_Request request;
    const char *data;
    bool let_go; /* by weft, which may forget it, and must leave its bytes */
} pending;
static _Thread_local pending requests[REQUESTS];
static _Thread_local int nrequests;

static void begin_request(MPI_Request request, const void *data) {
    if (!mine.tracking) return;
    if (nrequests == REQUESTS) fputs("inject: too many requests to track\n", stderr), abort();
    requests[nrequests++] = (pending){.request = request, .data = data};
}

/* Newest first: MPI uses a handle again when its request has ended, and that of one let go too. */
static pending *find_request(MPI_Request request) {
    for (int i = nrequests; i-- > 0;)
        if (requests[i].request == request && !requests[i].let_go) return &requests[i];
    return NULL;
}

static void end_request(MPI_Request request) {
    pending *const at = find_request(request);
    if (at) *at = requests[--nrequests];
}

static void let_go(MPI_Request request) {
    pending *const at = find_request(request);
    if (at) at->let_go = true;
}

/* Of a sanitized program. */
__attribute__((weak)) void __lsan_ignore_object(const void *at);

/* Buffers over pages of weft's own, each alive while its pages are MPI's. */
enum { HOSTED = 4096 };
static _Thread_local struct {
    cl_mem mem;
    block pages;
} hosted[HOSTED];
static _Thread_local int nhosted;

static void host_buffer(cl_mem mem, void *pages, size_t bytes) {
    if (!mem || !pages || !mine.tracking) return;
    if (nhosted == HOSTED) fputs("inject: too many buffers to track\n", stderr), abort();
    hosted[nhosted].mem = mem;
    hosted[nhosted++].pages = (block){.at = pages, .bytes = bytes};
}

static void release_hosted(cl_mem mem) {
    for (int i = 0; i < nhosted; i++)
        if (hosted[i].mem == mem) {
            hosted[i] = hosted[--nhosted];
            return;
        }
}

static bool is_with_mpi(const block *b) {
    for (int i = 0; i < nrequests; i++)
        if (requests[i].let_go && requests[i].data >= (char *)b->at && requests[i].data < (char *)b->at + b->bytes) return true;
    return false;
}

static int tell_block(FILE *out, const block *b) {
    Dl_info where = {0};
    dladdr(b->caller, &where);
    fprintf(out, "leak: %zu bytes allocated by %s+%lx (addr2line -e PROGRAM %lx)\n", b->bytes, where.dli_sname ? where.dli_sname : "?",
            (unsigned long)((char *)b->caller - (char *)where.dli_saddr), (unsigned long)((char *)b->caller - (char *)where.dli_fbase));
    return 1;
}

int inject_leaks(FILE *out, inject_left *left_out) {
    int leaks = 0;
    mine.tracking = false;
    mine.give_up_at = 0;
    *left_out = (inject_left){.communicators = objects[COMMUNICATOR], .gave_up = mine.gave_up};
    for (int i = 0; i < SLOTS; i++) {
        if (!blocks[i].at || blocks[i].at == GONE) continue;
        if (!is_with_mpi(&blocks[i])) leaks += tell_block(out, &blocks[i]);
        else if (__lsan_ignore_object) __lsan_ignore_object(blocks[i].at);
    }
    for (int i = 0; i < nhosted; i++) objects[BUFFER] -= is_with_mpi(&hosted[i].pages);
    for (int i = 0; i < OBJECTS; i++) {
        if (!objects[i] || (i == COMMUNICATOR && objects[i] > 0)) continue;
        fprintf(out, "leak: %lld of kind %s\n", (long long)objects[i], object_names[i]);
        leaks++;
    }
    for (int i = 0; i < nrequests; i++)
        if (!requests[i].let_go) fputs("leak: a request that was neither ended nor let go\n", out), leaks++;
    nrequests = nhosted = 0;
    reset();
    return leaks;
}

/* ---- the C library --------------------------------------------------------------------------------------------- */

#define CALLER __builtin_return_address(0)
void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
void __real_free(void *);
char *__real_strdup(const char *);
FILE *__real_open_memstream(char **, size_t *);

static bool no_memory(void) {
    if (!fails(INJECT_MEMORY)) return false;
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t bytes) {
    if (no_memory()) return NULL;
    void *const at = __real_malloc(bytes);
    remember(at, bytes, CALLER);
    return at;
}

void *__wrap_calloc(size_t count, size_t bytes) {
    if (no_memory()) return NULL;
    void *const at = __real_calloc(count, bytes);
    remember(at, count * bytes, CALLER);
    return at;
}

void *__wrap_realloc(void *old, size_t bytes) {
    if (no_memory()) return NULL;
    forget(old);
    void *const at = __real_realloc(old, bytes);
    remember(at, bytes, CALLER);
    return at;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    if (no_memory()) return NULL;
    void *const at = __real_aligned_alloc(alignment, bytes);
    remember(at, bytes, CALLER);
    return at;
}

void __wrap_free(void *at) {
    forget(at);
    __real_free(at);
}

char *__wrap_strdup(const char *text) {
    if (no_memory()) return NULL;
    char *const at = __real_strdup(text);
    remember(at, strlen(text) + 1, CALLER);
    return at;
}

FILE *__wrap_open_memstream(char **text, size_t *bytes) {
    return no_memory() ? NULL : __real_open_memstream(text, bytes);
}

/* Jansson is a shared library: it is asked to allocate through here. */
__attribute__((constructor)) static void lend_to_jansson(void) {
    json_set_alloc_funcs(__wrap_malloc, __wrap_free);
}

int __real_memfd_create(const char *, unsigned);
int __real_posix_fallocate(int, off_t, off_t);
void *__real_mmap(void *, size_t, int, int, int, off_t);
int __real_munmap(void *, size_t);

int __wrap_memfd_create(const char *name, unsigned flags) {
    if (!fails(INJECT_SHARE)) return __real_memfd_create(name, flags);
    errno = EMFILE;
    return -1;
}

int __wrap_posix_fallocate(int file, off_t from, off_t bytes) {
    return fails(INJECT_SHARE) ? ENOSPC : __real_posix_fallocate(file, from, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (fails(INJECT_SHARE)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *const got = __real_mmap(at, bytes, protection, flags, file, offset);
    if (got != MAP_FAILED) count(MAPPING, 1);
    return got;
}

int __wrap_munmap(void *at, size_t bytes) {
    count(MAPPING, -1);
    return __real_munmap(at, bytes);
}

FILE *__real_fopen(const char *, const char *);
DIR *__real_opendir(const char *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static bool no_file(void) {
    if (!fails(INJECT_SYSTEM)) return false;
    errno = EMFILE;
    return true;
}

FILE *__wrap_fopen(const char *path, const char *how) {
    return no_file() ? NULL : __real_fopen(path, how);
}

DIR *__wrap_opendir(const char *path) {
    return no_file() ? NULL : __real_opendir(path);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*work)(void *), void *user) {
    return fails(INJECT_SYSTEM) ? EAGAIN : __real_pthread_create(thread, how, work, user);
}

/* ---- OpenCL ---------------------------------------------------------------------------------------------------- */

bool __real_wf_calls_fails(wf_calls *);
bool __wrap_wf_calls_fails(wf_calls *calls) {
    if (!fails(INJECT_CL)) return __real_wf_calls_fails(calls);
    calls->fail_code = mine.at % 2 ? CL_OUT_OF_RESOURCES : CL_OUT_OF_HOST_MEMORY;
    return true;
}

#define COUNTED(object, type, name, parameters, arguments)                                         \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        type const made = __real_##name arguments;                                                 \
        if (made) count(object, 1);                                                                \
        return made;                                                                               \
    }
#define RELEASED(object, type, name)                                                               \
    cl_int __real_##name(type);                                                                    \
    cl_int __wrap_##name(type it) {                                                                \
        count(object, -1);                                                                         \
        return __real_##name(it);                                                                  \
    }
typedef void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *);
COUNTED(CONTEXT, cl_context, clCreateContext, (const cl_context_properties *p, cl_uint n, const cl_device_id *d, notify f, void *u, cl_int *c), (p, n, d, f, u, c))
COUNTED(QUEUE, cl_command_queue, clCreateCommandQueue, (cl_context x, cl_device_id d, cl_command_queue_properties p, cl_int *c), (x, d, p, c))
COUNTED(BUFFER, cl_mem, clCreateSubBuffer, (cl_mem m, cl_mem_flags f, cl_buffer_create_type t, const void *i, cl_int *c), (m, f, t, i, c))
COUNTED(PROGRAM, cl_program, clCreateProgramWithSource, (cl_context x, cl_uint n, const char **t, const size_t *l, cl_int *c), (x, n, t, l, c))
COUNTED(PROGRAM, cl_program, clCreateProgramWithBinary, (cl_context x, cl_uint n, const cl_device_id *d, const size_t *l, const unsigned char **b, cl_int *s, cl_int *c), (x, n, d, l, b, s, c))
COUNTED(KERNEL, cl_kernel, clCreateKernel, (cl_program p, const char *n, cl_int *c), (p, n, c))
RELEASED(CONTEXT, cl_context, clReleaseContext)
RELEASED(QUEUE, cl_command_queue, clReleaseCommandQueue)
RELEASED(PROGRAM, cl_program, clReleaseProgram)
RELEASED(KERNEL, cl_kernel, clReleaseKernel)

cl_mem __real_clCreateBuffer(cl_context, cl_mem_flags, size_t, void *, cl_int *);
cl_mem __wrap_clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host, cl_int *code_out) {
    cl_mem const mem = __real_clCreateBuffer(context, flags, bytes, host, code_out);
    if (mem) count(BUFFER, 1);
    host_buffer(mem, host, bytes);
    return mem;
}

cl_int __real_clReleaseMemObject(cl_mem);
cl_int __wrap_clReleaseMemObject(cl_mem mem) {
    count(BUFFER, -1);
    release_hosted(mem);
    return __real_clReleaseMemObject(mem);
}

/* ---- MPI: what all ranks must call is called, and said to have failed ------------------------------------------- */

#define FAILED MPI_ERR_OTHER
int __real_MPI_Comm_dup(MPI_Comm, MPI_Comm *), __real_MPI_Comm_free(MPI_Comm *);
int __real_MPI_Initialized(int *), __real_MPI_Finalized(int *);
int __real_MPI_Comm_set_errhandler(MPI_Comm, MPI_Errhandler), __real_MPI_Comm_size(MPI_Comm, int *), __real_MPI_Comm_rank(MPI_Comm, int *);
int __real_MPI_Isend(const void *, int, MPI_Datatype, int, int, MPI_Comm, MPI_Request *);
int __real_MPI_Irecv(void *, int, MPI_Datatype, int, int, MPI_Comm, MPI_Request *);
int __real_MPI_Test(MPI_Request *, int *, MPI_Status *), __real_MPI_Get_count(const MPI_Status *, MPI_Datatype, int *);

int __wrap_MPI_Comm_dup(MPI_Comm comm, MPI_Comm *out) {
    const int code = __real_MPI_Comm_dup(comm, out);
    if (fails(INJECT_MPI)) {
        __real_MPI_Comm_free(out);
        return FAILED;
    }
    if (code == MPI_SUCCESS) count(COMMUNICATOR, 1);
    return code;
}

int __wrap_MPI_Comm_free(MPI_Comm *comm) {
    count(COMMUNICATOR, -1);
    const int code = __real_MPI_Comm_free(comm);
    return fails(INJECT_MPI) ? FAILED : code;
}

int __wrap_MPI_Isend(const void *data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *out) {
    if (fails(INJECT_MPI)) return FAILED;
    const int code = __real_MPI_Isend(data, n, type, to, tag, comm, out);
    if (code == MPI_SUCCESS) begin_request(*out, data);
    return code;
}

int __wrap_MPI_Irecv(void *data, int n, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request *out) {
    if (fails(INJECT_MPI)) return FAILED;
    const int code = __real_MPI_Irecv(data, n, type, from, tag, comm, out);
    if (code == MPI_SUCCESS) begin_request(*out, data);
    return code;
}

int __wrap_MPI_Test(MPI_Request *request, int *done, MPI_Status *status) {
    const MPI_Request before = *request;
    if (fails(INJECT_TEST)) return FAILED;
    const int code = __real_MPI_Test(request, done, status);
    if (*request == MPI_REQUEST_NULL) end_request(before);
    return code;
}

int __real_MPI_Cancel(MPI_Request *), __real_MPI_Request_free(MPI_Request *);
int __wrap_MPI_Cancel(MPI_Request *request) {
    return gives_up() ? FAILED : __real_MPI_Cancel(request);
}

int __wrap_MPI_Request_free(MPI_Request *request) {
    let_go(*request);
    return gives_up() ? FAILED : __real_MPI_Request_free(request);
}

#define PLAIN(kind, name, parameters, arguments)                                                   \
    int __wrap_##name parameters {                                                                 \
        return fails(kind) ? FAILED : __real_##name arguments;                                     \
    }
PLAIN(INJECT_MPI, MPI_Initialized, (int *f), (f))
PLAIN(INJECT_MPI, MPI_Finalized, (int *f), (f))
PLAIN(INJECT_MPI, MPI_Comm_set_errhandler, (MPI_Comm c, MPI_Errhandler h), (c, h))
PLAIN(INJECT_MPI, MPI_Comm_size, (MPI_Comm c, int *n), (c, n))
PLAIN(INJECT_MPI, MPI_Comm_rank, (MPI_Comm c, int *n), (c, n))
PLAIN(INJECT_MPI, MPI_Get_count, (const MPI_Status *s, MPI_Datatype t, int *n), (s, t, n))
