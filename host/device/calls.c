#include "host/device/calls.h"

#include <pthread.h>

static pthread_mutex_t driver = PTHREAD_MUTEX_INITIALIZER;

void wf_driver_lock(void) {
    pthread_mutex_lock(&driver);
}

void wf_driver_unlock(void) {
    pthread_mutex_unlock(&driver);
}

bool wf_calls_fails(wf_calls *calls) {
    return ++calls->made == calls->fail_at;
}

void wf_calls_buffer(wf_calls *calls, int64_t bytes) {
    calls->buffer_bytes += bytes;
    if (calls->buffer_bytes > calls->peak_bytes) calls->peak_bytes = calls->buffer_bytes;
}

bool wf_calls_begin(wf_calls *calls, const char *call, double limit_s) {
    wf_board_enter(calls->board, call, WF_NOBODY, limit_s, &calls->before);
    return true;
}

wf_status wf_calls_end(wf_calls *calls, wf_status status) {
    wf_board_set(calls->board, &calls->before);
    return status;
}

#define CODE(name) {name, #name}
static const struct {
    cl_int code;
    const char *name;
} codes[] = {
    CODE(CL_DEVICE_NOT_FOUND), CODE(CL_DEVICE_NOT_AVAILABLE), CODE(CL_COMPILER_NOT_AVAILABLE),
    CODE(CL_MEM_OBJECT_ALLOCATION_FAILURE), CODE(CL_OUT_OF_RESOURCES), CODE(CL_OUT_OF_HOST_MEMORY),
    CODE(CL_PROFILING_INFO_NOT_AVAILABLE), CODE(CL_MEM_COPY_OVERLAP), CODE(CL_BUILD_PROGRAM_FAILURE),
    CODE(CL_MAP_FAILURE), CODE(CL_MISALIGNED_SUB_BUFFER_OFFSET),
    CODE(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST), CODE(CL_COMPILE_PROGRAM_FAILURE),
    CODE(CL_LINKER_NOT_AVAILABLE), CODE(CL_LINK_PROGRAM_FAILURE), CODE(CL_DEVICE_PARTITION_FAILED),
    CODE(CL_KERNEL_ARG_INFO_NOT_AVAILABLE), CODE(CL_INVALID_VALUE), CODE(CL_INVALID_DEVICE_TYPE),
    CODE(CL_INVALID_PLATFORM), CODE(CL_INVALID_DEVICE), CODE(CL_INVALID_CONTEXT),
    CODE(CL_INVALID_QUEUE_PROPERTIES), CODE(CL_INVALID_COMMAND_QUEUE), CODE(CL_INVALID_HOST_PTR),
    CODE(CL_INVALID_MEM_OBJECT), CODE(CL_INVALID_BINARY), CODE(CL_INVALID_BUILD_OPTIONS),
    CODE(CL_INVALID_PROGRAM), CODE(CL_INVALID_PROGRAM_EXECUTABLE), CODE(CL_INVALID_KERNEL_NAME),
    CODE(CL_INVALID_KERNEL_DEFINITION), CODE(CL_INVALID_KERNEL), CODE(CL_INVALID_ARG_INDEX),
    CODE(CL_INVALID_ARG_VALUE), CODE(CL_INVALID_ARG_SIZE), CODE(CL_INVALID_KERNEL_ARGS),
    CODE(CL_INVALID_WORK_DIMENSION), CODE(CL_INVALID_WORK_GROUP_SIZE), CODE(CL_INVALID_WORK_ITEM_SIZE),
    CODE(CL_INVALID_GLOBAL_OFFSET), CODE(CL_INVALID_EVENT_WAIT_LIST), CODE(CL_INVALID_EVENT),
    CODE(CL_INVALID_OPERATION), CODE(CL_INVALID_BUFFER_SIZE), CODE(CL_INVALID_GLOBAL_WORK_SIZE),
    CODE(CL_INVALID_PROPERTY), CODE(CL_INVALID_COMPILER_OPTIONS), CODE(CL_INVALID_LINKER_OPTIONS),
    CODE(CL_INVALID_DEVICE_PARTITION_COUNT), {-1001, "CL_PLATFORM_NOT_FOUND_KHR"},
};

const char *wf_calls_code_name(cl_int code) {
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].code == code) return codes[i].name;
    return "unknown code";
}

wf_status wf_calls_status(const char *call, cl_int code) {
    if (code == CL_SUCCESS) return WF_OK;
    const bool memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY;
    return wf_fail(memory ? WF_ERR_MEMORY : WF_ERR_DEVICE, "%s failed: %s (%d)", call, wf_calls_code_name(code),
                   (int)code);
}
