/* bind.c: memory of the caller's: DLPack tensors, and parameters that lie in his buffers. */
#include <string.h>

#include "host/api/objects.h"

/* ---- DLPack: the part of its ABI (dlpack.h, version 1.0 and before) that is read here ------------------------ */

typedef struct dl_tensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;       /* in elements; strides NULL: row-major without gaps */
    uint64_t byte_offset;
} dl_tensor;

enum { DL_CPU = 1, DL_OPENCL = 4, DL_FLOAT = 2, MOST_DIMENSIONS = 64 };

static wf_status count_elements(const dl_tensor *t, int64_t *out) {
    int64_t elements = 1;
    if (t->ndim < 0 || t->ndim > MOST_DIMENSIONS || (t->ndim && !t->shape))
        return wf_fail(WF_ERR_ARGUMENT, "a DLPack tensor of %d dimensions is no tensor", t->ndim);
    for (int32_t d = t->ndim - 1; d >= 0; d--) {
        if (t->shape[d] < 0 || __builtin_mul_overflow(elements, t->shape[d], &elements))
            return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor's dimension %d is %lld", d, (long long)t->shape[d]);
    }
    *out = elements;
    return WF_OK;
}

static wf_status check_strides(const dl_tensor *t) {
    int64_t expected = 1;
    for (int32_t d = t->ndim - 1; t->strides && d >= 0; d--) {
        if (t->shape[d] == 0) return WF_OK;
        if (t->shape[d] != 1 && t->strides[d] != expected)
            return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor has gaps: stride %lld of dimension %d where rows without gaps have %lld",
                           (long long)t->strides[d], d, (long long)expected);
        expected *= t->shape[d];
    }
    return WF_OK;
}

static wf_status read_dlpack(const dl_tensor *t, int64_t elements, weft_buffer *out) {
    int64_t has = 0;
    if (!t) return wf_fail(WF_ERR_ARGUMENT, "no DLPack tensor was given");
    if (t->dtype.code != DL_FLOAT || t->dtype.bits != 32 || t->dtype.lanes != 1)
        return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor has dtype code %d, %d bits, %d lanes; float32 is code 2, 32 bits, 1 lane",
                       t->dtype.code, t->dtype.bits, t->dtype.lanes);
    if (t->device.type != DL_OPENCL && t->device.type != DL_CPU)
        return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor is on a device of type %d; OpenCL is 4, a host 1", t->device.type);
    TRY(count_elements(t, &has));
    TRY(check_strides(t));
    if (elements && has != elements)
        return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor has %lld elements, not %lld", (long long)has, (long long)elements);
    if (t->byte_offset > INT64_MAX || t->byte_offset % 4)
        return wf_fail(WF_ERR_ARGUMENT, "the DLPack tensor begins at byte %llu, which is no multiple of 4",
                       (unsigned long long)t->byte_offset);
    *out = t->device.type == DL_OPENCL ? (weft_buffer){.cl_mem = t->data, .offset_bytes = (int64_t)t->byte_offset}
                                       : (weft_buffer){.host = (char *)t->data + t->byte_offset};
    return WF_OK;
}

weft_status weft_buffer_from_dlpack(const void *tensor, int64_t elements, weft_buffer *out) {
    return weft_from(read_dlpack(tensor, elements, out));
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

static wf_status bind(weft_params *p, int32_t index, const char *what, int64_t instance, const weft_buffer *buffer) {
    char name[128];
    TRY(weft_params_slot(p, index, what, instance, name));
    if (buffer && (!buffer->cl_mem || buffer->host))
        return wf_fail(WF_ERR_ARGUMENT, "tensor %s can only be bound to an OpenCL buffer", name);
    if (buffer && p->order[p->tensor[index]] != WF_ORDER_ROWS)
        return wf_fail(WF_ERR_ARGUMENT,
                       "tensor %s lies in panels here; only params made with WEFT_ORDER_ROWS can be bound to row-major buffers",
                       name);
    if (p->context->running) return wf_fail(WF_ERR_ARGUMENT, "a run is in progress: nothing can be bound");
    if (!wf_store_has(p->store, WF_CLASS_OPTIMIZER)) TRY(weft_params_prepare(p, WF_MODE_TRAIN));
    return wf_store_lend(p->store, name, (int32_t)instance, buffer ? buffer->cl_mem : NULL, buffer ? buffer->offset_bytes : 0);
}

weft_status weft_params_bind(weft_params *p, int32_t index, const char *what, int64_t instance, const weft_buffer *buffer) {
    return weft_from(bind(p, index, what, instance, buffer));
}
