#include "host/model/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/model/json.h"

enum { MOST_BYTES = 1 << 16 };

const char *const wf_checkpoint_file_names[WF_CHECKPOINT_FILES] = {
    "config.json", "model.safetensors", "optimizer.safetensors"};

/* Hash of all fields but "check", printed in one fixed way. */
static bool check_of(const json_t *root, char out[2 * WF_SHA256_BYTES + 1]) {
    uint8_t digest[WF_SHA256_BYTES];
    wf_sha256 hash;
    json_t *const rest = json_copy((json_t *)root);
    const bool whole = json_object_size(rest) == json_object_size(root); /* a copy may lack what found no memory */
    json_object_del(rest, "check");
    char *const text = rest && whole ? wf_json_print(rest, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(rest);
    if (!text) return false;
    wf_sha256_start(&hash);
    wf_sha256_add(&hash, text, strlen(text));
    wf_sha256_finish(&hash, digest);
    wf_sha256_hex(digest, out);
    free(text);
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------
 */

/* JSON has no 64-bit numbers without a sign that every reader keeps. */
static json_t *hexadecimal(uint64_t value) {
    return json_sprintf("%016llx", (unsigned long long)value);
}

static json_t *files_of(const wf_progress *p) {
    json_t *files = json_object();
    for (int i = 0; i < WF_CHECKPOINT_FILES; i++) {
        char hex[2 * WF_SHA256_BYTES + 1];
        if (!p->file[i].there) continue;
        wf_sha256_hex(p->file[i].digest, hex);
        json_t *const one =
            json_pack("{s:I,s:s}", "bytes", (json_int_t)p->file[i].bytes, "sha256", hex);
        if (json_object_set_new(files, wf_checkpoint_file_names[i], one) == 0) continue;
        json_decref(files);
        files = NULL;
    }
    return files;
}

static char *print(const wf_progress *p) {
    char check[2 * WF_SHA256_BYTES + 1];
    json_t *const root = json_pack(
        "{s:i,s:I,s:o,s:I,s:o,s:o,s:s,s:o}", "version", WF_PROGRESS_VERSION, "step",
        (json_int_t)p->step, "seed", hexadecimal(p->seed), "data_position",
        (json_int_t)p->data_position, "data_hash", hexadecimal(p->data_hash), "choices_hash",
        hexadecimal(p->choices_hash), "layout", p->layout, "files", files_of(p));
    char *text = NULL;
    if (root && check_of(root, check) &&
        json_object_set_new(root, "check", json_string(check)) == 0)
        text = wf_json_print(root, JSON_INDENT(1));
    json_decref(root);
    return text;
}

/* ---- reading
 * ------------------------------------------------------------------------------------- */

static wf_status bad(const char *path, const char *field) {
    return wf_fail(WF_ERR_FILE, "%s is damaged: its field %s is missing or wrong", path, field);
}

static wf_status get_number(const char *path, const json_t *object, const char *field,
                            int64_t *out) {
    const json_t *const value = json_object_get(object, field);
    if (!json_is_integer(value) || json_integer_value(value) < 0) return bad(path, field);
    *out = json_integer_value(value);
    return WF_OK;
}

static bool is_hex(const char *text, size_t digits) {
    return text && strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

static wf_status get_hash(const char *path, const json_t *object, const char *field,
                          uint64_t *out) {
    const char *const text = json_string_value(json_object_get(object, field));
    if (!is_hex(text, 16)) return bad(path, field);
    *out = strtoull(text, NULL, 16);
    return WF_OK;
}

static wf_status get_layout(const char *path, const json_t *root, char out[WF_LAYOUT_BYTES]) {
    const char *const text = json_string_value(json_object_get(root, "layout"));
    if (!text || strlen(text) >= WF_LAYOUT_BYTES) return bad(path, "layout");
    strcpy(out, text);
    return WF_OK;
}

static wf_status get_file(const char *path, const json_t *files, int which, wf_progress *out) {
    const char *const name = wf_checkpoint_file_names[which];
    const json_t *const object = json_object_get(files, name);
    const char *const hex = json_string_value(json_object_get(object, "sha256"));
    out->file[which].there = object != NULL;
    if (!object) return which == WF_FILE_OPTIMIZER ? WF_OK : bad(path, name);
    TRY(get_number(path, object, "bytes", &out->file[which].bytes));
    if (!is_hex(hex, 2 * WF_SHA256_BYTES)) return bad(path, "sha256");
    for (int i = 0; i < WF_SHA256_BYTES; i++) {
        const char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out->file[which].digest[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return WF_OK;
}

static wf_status check_itself(const char *path, const json_t *root) {
    char want[2 * WF_SHA256_BYTES + 1];
    const char *const said = json_string_value(json_object_get(root, "check"));
    if (!check_of(root, want)) return wf_fail(WF_ERR_MEMORY, "no host memory to check %s", path);
    if (said && strcmp(said, want) == 0) return WF_OK;
    return wf_fail(WF_ERR_FILE, "%s is damaged: it does not match its own hash", path);
}

static wf_status read_root(const char *path, const json_t *root, wf_progress *out) {
    int64_t version;
    wf_progress p = {0};
    if (!json_is_object(root)) return wf_fail(WF_ERR_FILE, "%s is no JSON object", path);
    TRY(get_number(path, root, "version", &version));
    if (version != WF_PROGRESS_VERSION)
        return wf_fail(WF_ERR_FILE, "%s is of version %lld; this weft reads %d", path,
                       (long long)version, WF_PROGRESS_VERSION);
    TRY(check_itself(path, root));
    TRY(get_number(path, root, "step", &p.step));
    TRY(get_number(path, root, "data_position", &p.data_position));
    TRY(get_hash(path, root, "seed", &p.seed));
    TRY(get_hash(path, root, "data_hash", &p.data_hash));
    TRY(get_hash(path, root, "choices_hash", &p.choices_hash));
    TRY(get_layout(path, root, p.layout));
    for (int i = 0; i < WF_CHECKPOINT_FILES; i++)
        TRY(get_file(path, json_object_get(root, "files"), i, &p));
    *out = p;
    return WF_OK;
}

static wf_status parse(const char *path, const char *text, int64_t bytes, wf_progress *out) {
    json_t *root;
    TRY(wf_json_parse(path, text, bytes, &root));
    const wf_status status = read_root(path, root, out);
    json_decref(root);
    return status;
}

wf_status wf_progress_read(const char *path, wf_progress *out) {
    char *text;
    int64_t bytes;
    TRY(wf_file_load(path, MOST_BYTES, &text, &bytes));
    const wf_status status = parse(path, text, bytes, out);
    free(text);
    return status;
}

wf_status wf_progress_write(const char *path, const wf_progress *p) {
    uint8_t digest[WF_SHA256_BYTES];
    wf_output out;
    char *const text = print(p);
    if (!text) return wf_fail(WF_ERR_MEMORY, "no host memory for %s", path);
    wf_status status = wf_output_open(path, &out);
    if (status == WF_OK) status = wf_output_put(&out, text, (int64_t)strlen(text));
    if (status == WF_OK) status = wf_output_close(&out, digest);
    wf_output_abandon(&out);
    free(text);
    return status;
}
