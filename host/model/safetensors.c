/* safetensors.c: reading. The header is checked whole before anything else is believed: its length
 * against the file's before memory is asked for, its nesting before the JSON parser sees it, then
 * each entry alone, then all of them together: sorted by place, each begins where the last ended.
 *
 * Data are read by pread, not through a mapping: a file that is cut short by another process, or a
 * disk that fails, is then a sentence; through a mapping it is a SIGBUS in the program that uses
 * weft. What is not asked for is not read, either way. */
#include "host/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/sizes.h"
#include "host/model/json.h"

enum {
    MOST_HEADER = 100 * 1000 * 1000, /* the format's own limit */
    MOST_DEPTH = 8, /* an entry's data_offsets are at 3; no file in use is deeper */
    ROOM = 1 << 16  /* bytes converted at a time */
};

static const struct {
    const char *name;
    int32_t bytes, storage;
} dtypes[] = {
    {"F32", 4, WF_STORAGE_F32},       {"F16", 2, WF_STORAGE_F16},
    {"BF16", 2, WF_STORAGE_BF16},     {"F64", 8, WF_STORAGE_F64},
    {"BOOL", 1, WF_STORAGE_OTHER},    {"U8", 1, WF_STORAGE_OTHER},
    {"I8", 1, WF_STORAGE_OTHER},      {"I16", 2, WF_STORAGE_OTHER},
    {"U16", 2, WF_STORAGE_OTHER},     {"I32", 4, WF_STORAGE_OTHER},
    {"U32", 4, WF_STORAGE_OTHER},     {"I64", 8, WF_STORAGE_OTHER},
    {"U64", 8, WF_STORAGE_OTHER},     {"F8_E4M3", 1, WF_STORAGE_OTHER},
    {"F8_E5M2", 1, WF_STORAGE_OTHER}, {"F8_E8M0", 1, WF_STORAGE_OTHER},
    {"C64", 8, WF_STORAGE_OTHER},
};

struct wf_safetensors {
    char *path;
    int file;
    int64_t file_bytes, data; /* data: where they begin */
    json_t *header;           /* owns the names */
    wf_tensor_entry *entries;
    int64_t count;
};

static int32_t dtype_bytes(const wf_tensor_entry *e) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, e->dtype) == 0) return dtypes[i].bytes;
    return 0;
}

/* ---- one entry ----------------------------------------------------------------------------------
 */

static wf_status read_dtype(const wf_safetensors *s, wf_tensor_entry *e, const json_t *value) {
    if (!json_is_string(value))
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has no dtype", s->path, e->name);
    e->dtype = json_string_value(value);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, e->dtype) == 0) {
            e->storage = dtypes[i].storage;
            return WF_OK;
        }
    return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has dtype \"%.32s\", which weft does not know",
                   s->path, e->name, e->dtype);
}

static wf_status read_shape(const wf_safetensors *s, wf_tensor_entry *e, const json_t *value) {
    if (!json_is_array(value))
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has no shape", s->path, e->name);
    if (json_array_size(value) > WF_TENSOR_AXES)
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has %zu axes; at most %d are read", s->path,
                       e->name, json_array_size(value), WF_TENSOR_AXES);
    e->axes = (int32_t)json_array_size(value);
    e->elements = 1;
    for (int32_t i = 0; i < e->axes; i++) {
        const json_t *const extent = json_array_get(value, (size_t)i);
        e->extent[i] = json_integer_value(extent);
        if (!json_is_integer(extent) || e->extent[i] < 0)
            return wf_fail(WF_ERR_FILE,
                           "%s: tensor %.200s: extent %d of its shape is no whole number >= 0",
                           s->path, e->name, i);
        if (!wf_size_multiply(e->elements, e->extent[i], &e->elements))
            return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has more than 2^63 elements", s->path,
                           e->name);
    }
    if (!wf_size_multiply(e->elements, dtype_bytes(e), &e->bytes))
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s has more than 2^63 bytes", s->path, e->name);
    return WF_OK;
}

static wf_status read_offsets(const wf_safetensors *s, wf_tensor_entry *e, const json_t *value) {
    const json_t *const from = json_array_get(value, 0), *const to = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s: data_offsets are no two whole numbers",
                       s->path, e->name);
    const int64_t begin = json_integer_value(from), end = json_integer_value(to),
                  all = s->file_bytes - s->data;
    if (begin < 0 || begin > end || end > all)
        return wf_fail(WF_ERR_FILE,
                       "%s: tensor %.200s: data_offsets [%lld, %lld] do not lie in the file's %lld "
                       "bytes of data",
                       s->path, e->name, (long long)begin, (long long)end, (long long)all);
    if (end - begin != e->bytes)
        return wf_fail(WF_ERR_FILE,
                       "%s: tensor %.200s: data_offsets [%lld, %lld] hold %lld bytes, its shape of "
                       "%s needs %lld",
                       s->path, e->name, (long long)begin, (long long)end, (long long)(end - begin),
                       e->dtype, (long long)e->bytes);
    e->begin = s->data + begin;
    return WF_OK;
}

static wf_status read_entry(const wf_safetensors *s, const char *name, const json_t *value,
                            wf_tensor_entry *e) {
    e->name = name;
    if (!*name) return wf_fail(WF_ERR_FILE, "%s: a tensor has no name", s->path);
    if (!json_is_object(value))
        return wf_fail(WF_ERR_FILE, "%s: tensor %.200s is no JSON object", s->path, name);
    TRY(read_dtype(s, e, json_object_get(value, "dtype")));
    TRY(read_shape(s, e, json_object_get(value, "shape")));
    return read_offsets(s, e, json_object_get(value, "data_offsets"));
}

/* ---- all together
 * --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const wf_tensor_entry *)a)->name, ((const wf_tensor_entry *)b)->name);
}

/* Empty tensors before the one that begins where they stand. */
static int by_place(const void *a, const void *b) {
    const wf_tensor_entry *const x = a, *const y = b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static wf_status check_places(const wf_safetensors *s) {
    int64_t at = s->data;
    qsort(s->entries, (size_t)s->count, sizeof *s->entries, by_place);
    for (int64_t i = 0; i < s->count; i++) {
        const wf_tensor_entry *const e = &s->entries[i];
        if (e->begin < at)
            return wf_fail(WF_ERR_FILE, "%s: tensors %.200s and %.200s overlap", s->path,
                           s->entries[i - 1].name, e->name);
        if (e->begin > at)
            return wf_fail(WF_ERR_FILE, "%s: %lld bytes before tensor %.200s belong to none",
                           s->path, (long long)(e->begin - at), e->name);
        at += e->bytes;
    }
    if (at != s->file_bytes)
        return wf_fail(WF_ERR_FILE, "%s: the last %lld bytes belong to no tensor", s->path,
                       (long long)(s->file_bytes - at));
    return WF_OK;
}

static wf_status check_metadata(const wf_safetensors *s, const json_t *value) {
    const char *key;
    json_t *text;
    if (!json_is_object(value))
        return wf_fail(WF_ERR_FILE, "%s: __metadata__ is no JSON object", s->path);
    json_object_foreach((json_t *)value, key, text) if (!json_is_string(text)) return wf_fail(
        WF_ERR_FILE, "%s: __metadata__: %.200s is no text", s->path, key);
    return WF_OK;
}

static wf_status read_entries(wf_safetensors *s) {
    const char *name;
    json_t *value;
    if (!json_is_object(s->header))
        return wf_fail(WF_ERR_FILE, "%s: its header is no JSON object", s->path);
    s->entries = calloc(json_object_size(s->header) + 1, sizeof *s->entries);
    if (!s->entries) return wf_fail(WF_ERR_MEMORY, "no host memory for the tensors of %s", s->path);
    json_object_foreach(s->header, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            TRY(check_metadata(s, value));
        else
            TRY(read_entry(s, name, value, &s->entries[s->count++]));
    }
    TRY(check_places(s));
    qsort(s->entries, (size_t)s->count, sizeof *s->entries, by_name);
    return WF_OK;
}

/* ---- the header
 * ------------------------------------------------------------------------------------ */

/* A deep header would have the parser nest as deep. */
static wf_status check_depth(const wf_safetensors *s, const char *text, int64_t bytes) {
    int depth = 0;
    bool quoted = false;
    for (int64_t i = 0; i < bytes; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && (text[i] == '{' || text[i] == '['))
            depth++;
        else if (!quoted && (text[i] == '}' || text[i] == ']'))
            depth--;
        if (depth > MOST_DEPTH)
            return wf_fail(WF_ERR_FILE, "%s: its header nests deeper than %d", s->path, MOST_DEPTH);
    }
    return WF_OK;
}

static wf_status parse_header(wf_safetensors *s, const char *text, int64_t bytes) {
    char name[4096];
    if (text[0] != '{')
        return wf_fail(WF_ERR_FILE, "%s is no safetensors file: its header does not begin with {",
                       s->path);
    TRY(check_depth(s, text, bytes));
    snprintf(name, sizeof name, "the header of %s", s->path);
    return wf_json_parse(name, text, bytes, &s->header);
}

static wf_status read_header(wf_safetensors *s) {
    uint8_t raw[8];
    uint64_t bytes = 0;
    wf_status status;
    if (s->file_bytes < 8)
        return wf_fail(WF_ERR_FILE, "%s is no safetensors file: it has %lld bytes", s->path,
                       (long long)s->file_bytes);
    TRY(wf_file_read_at(s->file, s->path, 0, raw, sizeof raw));
    for (int i = 7; i >= 0; i--) bytes = bytes << 8 | raw[i];
    if (bytes < 2 || bytes > (uint64_t)(s->file_bytes - 8))
        return wf_fail(
            WF_ERR_FILE,
            "%s is no safetensors file, or cut short: a header of %llu bytes in a file of %lld",
            s->path, (unsigned long long)bytes, (long long)s->file_bytes);
    if (bytes > MOST_HEADER)
        return wf_fail(WF_ERR_FILE, "%s: a header of %llu bytes; the format allows %d", s->path,
                       (unsigned long long)bytes, MOST_HEADER);
    s->data = 8 + (int64_t)bytes;
    char *const text = malloc((size_t)bytes);
    if (!text) return wf_fail(WF_ERR_MEMORY, "no host memory for the header of %s", s->path);
    TRY_GOTO(wf_file_read_at(s->file, s->path, 8, text, (int64_t)bytes), done);
    TRY_GOTO(parse_header(s, text, (int64_t)bytes), done);
done:
    free(text);
    return status;
}

/* ---- life
 * -------------------------------------------------------------------------------------------- */

wf_status wf_safetensors_open(const char *path, wf_safetensors **out) {
    wf_safetensors *const s = calloc(1, sizeof *s);
    wf_status status;
    if (!s) return wf_fail(WF_ERR_MEMORY, "no host memory to open %s", path);
    s->file = -1;
    s->path = strdup(path);
    TRY_GOTO(s->path ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to open %s", path), fail);
    TRY_GOTO(wf_file_open(path, &s->file, &s->file_bytes), fail);
    TRY_GOTO(read_header(s), fail);
    TRY_GOTO(read_entries(s), fail);
    *out = s;
    return WF_OK;
fail:
    wf_safetensors_close(s);
    return status;
}

void wf_safetensors_close(wf_safetensors *s) {
    if (!s) return;
    if (s->file >= 0) close(s->file);
    json_decref(s->header);
    free(s->entries);
    free(s->path);
    free(s);
}

const char *wf_safetensors_path(const wf_safetensors *s) {
    return s->path;
}

int64_t wf_safetensors_count(const wf_safetensors *s) {
    return s->count;
}

const wf_tensor_entry *wf_safetensors_entry(const wf_safetensors *s, int64_t index) {
    return &s->entries[index];
}

const wf_tensor_entry *wf_safetensors_find(const wf_safetensors *s, const char *name) {
    const wf_tensor_entry wanted = {.name = name};
    return bsearch(&wanted, s->entries, (size_t)s->count, sizeof wanted, by_name);
}

/* ---- data
 * -------------------------------------------------------------------------------------------- */

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE binary16: 1 sign, 5 exponent (bias 15), 10 fraction. */
static float from_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31,
                   fraction = half & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = (float)fraction * 0x1p-24f; /* subnormal: exact in f32 */
    return sign ? -small : small;
}

static void convert(const wf_tensor_entry *e, const uint8_t *raw, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;
        if (e->storage == WF_STORAGE_F64) {
            memcpy(&wide, raw + 8 * i, sizeof wide);
            out[i] = (float)wide;
        } else {
            memcpy(&half, raw + 2 * i, sizeof half);
            out[i] =
                e->storage == WF_STORAGE_F16 ? from_f16(half) : from_bits((uint32_t)half << 16);
        }
    }
}

wf_status wf_safetensors_read(const wf_safetensors *s, const wf_tensor_entry *e, int64_t first,
                              int64_t count, float *out) {
    uint8_t room[ROOM];
    if (first < 0 || count < 0 || first > e->elements || count > e->elements - first)
        return wf_fail(WF_ERR_INTERNAL, "elements %lld to %lld of tensor %.200s, which has %lld",
                       (long long)first, (long long)(first + count), e->name,
                       (long long)e->elements);
    if (e->storage == WF_STORAGE_OTHER)
        return wf_fail(WF_ERR_FILE,
                       "%s: tensor %.200s is of dtype %s; weights are F32, F16, BF16 or F64",
                       s->path, e->name, e->dtype);
    const int64_t width = dtype_bytes(e);
    if (e->storage == WF_STORAGE_F32)
        return wf_file_read_at(s->file, s->path, e->begin + first * width, out, count * width);
    for (int64_t done = 0; done < count;) {
        const int64_t part = count - done < ROOM / width ? count - done : ROOM / width;
        TRY(wf_file_read_at(s->file, s->path, e->begin + (first + done) * width, room,
                            part * width));
        convert(e, room, part, out + done);
        done += part;
    }
    return WF_OK;
}
