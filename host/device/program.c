/* Programs: source text and options to a built program, once per (source, options) of a device. */
#include "host/device/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/log.h"

/* Every kernel is OpenCL C 1.2. */
static const char language[] = "-cl-std=CL1.2";

/* A whole file as text; malloc'ed. */
static wf_status read_text(const char *folder, const char *name, char **out) {
    char path[1024];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return wf_fail(WF_ERR_FILE, "the path of %s is too long", name);
    FILE *file = fopen(path, "rb");
    if (!file) return wf_fail(WF_ERR_FILE, "%s cannot be read", path);
    char *text = NULL;
    long bytes = -1;
    if (fseek(file, 0, SEEK_END) == 0) bytes = ftell(file);
    rewind(file);
    if (bytes >= 0) text = calloc(1, (size_t)bytes + 1);
    const bool whole = text && fread(text, 1, (size_t)bytes, file) == (size_t)bytes;
    fclose(file);
    if (!whole) {
        free(text);
        return wf_fail(WF_ERR_FILE, "%s cannot be read", path);
    }
    *out = text;
    return WF_OK;
}

/* The source text to compile, malloc'ed, and what it adds to the options. */
static wf_status find_source(const wf_opencl *opencl, const char *name, const char *text, char **text_out, char *more,
                             size_t more_bytes) {
    const char *const folder = text ? NULL : opencl->kernel_dir;
    *more = 0;
    if (folder) {
        snprintf(more, more_bytes, " -I%s", folder);
        return read_text(folder, name, text_out);
    }
    if (!text) text = wf_kernel_source(name);
    if (!text) return wf_fail(WF_ERR_INTERNAL, "no kernel source is named %s", name);
    *text_out = strdup(text);
    return *text_out ? WF_OK : wf_fail(WF_ERR_MEMORY, "out of host memory for a kernel's source");
}

static void say_lines(const wf_log *log, const char *text) {
    for (const char *at = text; *at;) {
        const size_t length = strcspn(at, "\n");
        wf_say(log, WF_LOG_BUILD, "  %.*s", (int)length, at);
        at += length + (at[length] == '\n');
    }
}

/* The compiler's log: whole in the log, its start in the sentence. */
static wf_status build_failed(wf_opencl *opencl, cl_program program, const char *name, const char *options) {
    char reason[256], *log = NULL;
    size_t bytes = 0;
    snprintf(reason, sizeof reason, "%s", wf_last_error());
    clGetProgramBuildInfo(program, opencl->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
    if (bytes > 0) log = calloc(1, bytes + 1);
    if (log) clGetProgramBuildInfo(program, opencl->id, CL_PROGRAM_BUILD_LOG, bytes, log, NULL);
    wf_say(opencl->calls.log, WF_LOG_BUILD, "%s %s does not build: %s", name, options, reason);
    if (log && wf_log_on(opencl->calls.log, WF_LOG_BUILD)) say_lines(opencl->calls.log, log);
    const wf_status status = wf_fail(WF_ERR_DEVICE, "%s with \"%s\" does not build: %s: %.500s", name, options, reason,
                                     log && *log ? log : "the compiler says nothing");
    free(log);
    return status;
}

/* From source or from a binary. */
static wf_status finish(wf_opencl *opencl, cl_program program, const char *name, const char *options) {
    const double start = wf_clock_s();
    wf_calls *const calls = &opencl->calls;
    wf_calls_begin(calls, "clBuildProgram", 0);
    const cl_int code = wf_calls_fails(calls) ? calls->fail_code : clBuildProgram(program, 1, &opencl->id, options, NULL, NULL);
    const wf_status status = wf_calls_end(calls, wf_calls_status("clBuildProgram", code));
    opencl->build_refused = opencl->build_refused || code == CL_BUILD_PROGRAM_FAILURE || code == CL_INVALID_BUILD_OPTIONS;
    if (status != WF_OK) return build_failed(opencl, program, name, options);
    wf_say(calls->log, WF_LOG_BUILD, "%s %s: %.2f s", name, options, wf_clock_s() - start);
    return WF_OK;
}

static wf_status from_source(wf_opencl *opencl, const char *text, cl_program *out) {
    cl_int code = CL_SUCCESS;
    *out = WF_CL_NEW(&opencl->calls, code, clCreateProgramWithSource, (opencl->context, 1, &text, NULL, &code));
    return wf_calls_status("clCreateProgramWithSource", code);
}

/* A built program of a binary, or of intermediate code. */
static wf_status from_binary(wf_opencl *opencl, const unsigned char *bytes, size_t nbytes, const char *name, const char *options,
                             cl_program *out) {
    cl_int code = CL_SUCCESS, one = CL_SUCCESS;
    cl_program program = WF_CL_NEW(&opencl->calls, code, clCreateProgramWithBinary,
                                   (opencl->context, 1, &opencl->id, &nbytes, &bytes, &one, &code));
    wf_status status = wf_calls_status("clCreateProgramWithBinary", code ? code : one);
    if (status == WF_OK) status = finish(opencl, program, name, options);
    if (status == WF_OK) *out = program;
    else if (program) clReleaseProgram(program);
    return status;
}

/* The program out of the cache; false when it is not there, or the driver does not want it any more. */
static bool load(wf_opencl *opencl, const wf_cache_key *key, const char *name, const char *options, cl_program *out) {
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    if (!wf_cache_read(opencl->cache, key, &bytes, &nbytes)) return false;
    const wf_status status = from_binary(opencl, bytes, nbytes, name, options, out);
    free(bytes);
    if (status == WF_OK) {
        opencl->loaded++;
        wf_say(opencl->calls.log, WF_LOG_CACHE, "%s %s came out of the cache", name, options);
    } else {
        wf_say(opencl->calls.log, WF_LOG_CACHE, "an entry is not used: %s", wf_last_error());
        wf_cache_forget(opencl->cache, key);
    }
    return status == WF_OK;
}

/* The driver's binary, malloc'ed; NULL where it has none. */
static wf_status binary_of(wf_opencl *opencl, cl_program program, unsigned char **out, size_t *nbytes_out) {
    size_t nbytes = 0;
    *out = NULL;
    TRY(WF_CL(&opencl->calls, clGetProgramInfo, (program, CL_PROGRAM_BINARY_SIZES, sizeof nbytes, &nbytes, NULL)));
    if (nbytes == 0) return WF_OK;
    unsigned char *bytes = malloc(nbytes);
    if (!bytes) return wf_fail(WF_ERR_MEMORY, "out of host memory for a program's binary");
    const wf_status status = WF_CL(&opencl->calls, clGetProgramInfo, (program, CL_PROGRAM_BINARIES, sizeof bytes, &bytes, NULL));
    if (status == WF_OK) *out = bytes, *nbytes_out = nbytes;
    else free(bytes);
    return status;
}

static wf_status keep(wf_opencl *opencl, const wf_cache_key *key, cl_program program) {
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    TRY(binary_of(opencl, program, &bytes, &nbytes));
    if (bytes) wf_cache_write(opencl->cache, key, bytes, nbytes);
    free(bytes);
    return WF_OK;
}

/* Compiled, and neither linked nor specialised for any group size: so asking for its binary costs nothing. */
static wf_status compile_only(wf_opencl *opencl, const char *text, const char *options, cl_program *out) {
    wf_calls *const calls = &opencl->calls;
    cl_program program = NULL;
    TRY(from_source(opencl, text, &program));
    wf_calls_begin(calls, "clCompileProgram", 0);
    const wf_status status =
        wf_calls_end(calls, WF_CL(calls, clCompileProgram, (program, 1, &opencl->id, options, 0, NULL, NULL, NULL, NULL)));
    if (status == WF_OK) *out = program;
    else clReleaseProgram(program);
    return status;
}

/* By way of intermediate code, which is kept: this time's program is made of what is kept as later ones will be, so
 * that all find the same machine code in the driver's cache (PoCL's code names a temporary file, so no two are
 * the same). A failure is no verdict on the source. */
static wf_status build_intermediate(wf_opencl *opencl, const wf_cache_key *key, const char *name, const char *text,
                                    const char *options, cl_program *out) {
    cl_program compiled = NULL;
    unsigned char *binary = NULL, *kept = NULL;
    size_t nbytes = 0, ncode = 0, nkept = 0;
    TRY(compile_only(opencl, text, options, &compiled));
    wf_status status = binary_of(opencl, compiled, &binary, &nbytes);
    const unsigned char *const code = binary ? wf_intermediate_find(binary, nbytes, &ncode) : NULL;
    if (status == WF_OK && !code) status = wf_fail(WF_ERR_DEVICE, "the driver's binary holds no intermediate code that weft knows");
    if (status == WF_OK && wf_cache_offer(opencl->cache, key, code, ncode, &kept, &nkept))
        status = from_binary(opencl, kept, nkept, name, options, out);
    else if (status == WF_OK)
        status = from_binary(opencl, code, ncode, name, options, out);
    free(kept);
    free(binary);
    clReleaseProgram(compiled);
    return status;
}

static wf_status compile(wf_opencl *opencl, const char *name, const char *text, const char *options, cl_program *out) {
    wf_cache_key key;
    cl_program program = NULL;
    if (opencl->cache) {
        wf_cache_key_of(opencl, text, options, &key);
        if (load(opencl, &key, name, options, out)) return WF_OK;
    }
    opencl->compiled++;
    if (opencl->cache && opencl->kept.intermediate) {
        if (build_intermediate(opencl, &key, name, text, options, out) == WF_OK) return WF_OK;
        wf_say(opencl->calls.log, WF_LOG_CACHE, "no intermediate code is kept: %s", wf_last_error());
    }
    TRY(from_source(opencl, text, &program));
    const wf_status status = finish(opencl, program, name, options);
    if (status != WF_OK) {
        clReleaseProgram(program);
        return status;
    }
    if (opencl->cache && !opencl->kept.intermediate && keep(opencl, &key, program) != WF_OK)
        wf_say(opencl->calls.log, WF_LOG_CACHE, "a program is not kept: %s", wf_last_error());
    *out = program;
    return WF_OK;
}

static wf_status build(wf_opencl *opencl, const char *name, const char *text, const char *options, cl_program *out) {
    char more[600], all[2048], *source = NULL;
    TRY(find_source(opencl, name, text, &source, more, sizeof more));
    wf_status status = WF_OK;
    if ((size_t)snprintf(all, sizeof all, "%s%s %s", language, more, options) >= sizeof all)
        status = wf_fail(WF_ERR_INTERNAL, "the build options of %s are too long", name);
    if (status == WF_OK) {
        wf_driver_lock();
        status = compile(opencl, name, source, all, out);
        wf_driver_unlock();
    }
    free(source);
    return status;
}

static void free_one(wf_program *program) {
    if (program->program) clReleaseProgram(program->program);
    free(program->source_name);
    free(program->options);
    free(program);
}

wf_status wf_program_get(wf_opencl *opencl, const char *name, const char *text, const char *options, wf_program **out) {
    for (wf_program *at = opencl->programs; at; at = at->next)
        if (strcmp(at->source_name, name) == 0 && strcmp(at->options, options) == 0) {
            *out = at;
            return WF_OK;
        }
    wf_program *program = calloc(1, sizeof *program);
    if (!program) return wf_fail(WF_ERR_MEMORY, "out of host memory for a program");
    program->source_name = strdup(name);
    program->options = strdup(options);
    wf_status status = WF_OK;
    if (!program->source_name || !program->options) status = wf_fail(WF_ERR_MEMORY, "out of host memory for a program");
    if (status == WF_OK) status = build(opencl, name, text, options, &program->program);
    if (status != WF_OK) {
        free_one(program);
        return status;
    }
    program->next = opencl->programs;
    opencl->programs = program;
    *out = program;
    return WF_OK;
}

void wf_program_free_all(wf_opencl *opencl) {
    while (opencl->programs) {
        wf_program *next = opencl->programs->next;
        free_one(opencl->programs);
        opencl->programs = next;
    }
}
