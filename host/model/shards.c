#include "host/model/shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/model/names.h"

/* ---- which files
 * ---------------------------------------------------------------------------------- */

static wf_status make_room(wf_shards *s, int64_t files) {
    s->files = calloc((size_t)files + 1, sizeof *s->files);
    return s->files ? WF_OK
                    : wf_fail(WF_ERR_MEMORY, "no host memory to open %lld files", (long long)files);
}

static wf_status open_one(const char *path, wf_shards *s) {
    TRY(make_room(s, 1));
    TRY(wf_safetensors_open(path, &s->files[0]));
    s->nfiles = 1;
    return WF_OK;
}

/* What the index says of each file must be so. */
static wf_status check_index(const char *path, const wf_shard_index *index, const wf_shards *s) {
    for (int64_t i = 0; i < index->nplaces; i++) {
        const char *const file = index->places[i].file, *const tensor = index->places[i].tensor;
        char *const *const at = index->files;
        int64_t low = 0, high = index->nfiles - 1;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (strcmp(at[middle], file) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (!wf_safetensors_find(s->files[low], tensor))
            return wf_fail(WF_ERR_FILE, "%s says that %s holds tensor %.200s, which it does not",
                           path, file, tensor);
    }
    return WF_OK;
}

static wf_status open_indexed(const char *folder, const char *path, wf_shards *s) {
    wf_shard_index index = {0};
    char file[4096];
    wf_status status;
    TRY(wf_shard_index_read(path, &index));
    TRY_GOTO(make_room(s, index.nfiles), done);
    for (int64_t i = 0; i < index.nfiles; i++) {
        TRY_GOTO(wf_path_join(folder, index.files[i], file, sizeof file), done);
        TRY_GOTO(wf_safetensors_open(file, &s->files[i]), done);
        s->nfiles++;
    }
    TRY_GOTO(check_index(path, &index, s), done);
done:
    wf_shard_index_free(&index);
    return status;
}

static wf_status open_folder(const char *folder, wf_shards *s) {
    char one[4096], index[4096];
    struct stat st;
    TRY(wf_path_join(folder, "model.safetensors", one, sizeof one));
    TRY(wf_path_join(folder, "model.safetensors.index.json", index, sizeof index));
    if (stat(one, &st) == 0) return open_one(one, s);
    if (stat(index, &st) == 0) return open_indexed(folder, index, s);
    return wf_fail(WF_ERR_FILE,
                   "%s holds no model.safetensors and no model.safetensors.index.json (other "
                   "formats are not read)",
                   folder);
}

static wf_status open_files(const char *path, wf_shards *s) {
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return open_folder(path, s);
    return open_one(path, s);
}

/* ---- one set of names
 * ------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b) {
    return strcmp(((const wf_shard_tensor *)a)->name, ((const wf_shard_tensor *)b)->name);
}

static wf_status add_tensor(wf_shards *s, const wf_safetensors *file,
                            const wf_tensor_entry *entry) {
    char modern[512];
    wf_shard_tensor *const t = &s->tensors[s->ntensors++];
    *t = (wf_shard_tensor){.name = entry->name, .file = file, .entry = entry};
    wf_name_modern(entry->name, modern, sizeof modern);
    if (strlen(entry->name) >= sizeof modern || strcmp(modern, entry->name) == 0) return WF_OK;
    t->name = t->renamed = strdup(modern);
    return t->name ? WF_OK
                   : wf_fail(WF_ERR_MEMORY, "no host memory for the name of tensor %.200s",
                             entry->name);
}

static wf_status pool(wf_shards *s) {
    int64_t n = 0;
    for (int64_t f = 0; f < s->nfiles; f++) n += wf_safetensors_count(s->files[f]);
    s->tensors = calloc((size_t)n + 1, sizeof *s->tensors);
    if (!s->tensors)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the names of %lld tensors", (long long)n);
    for (int64_t f = 0; f < s->nfiles; f++)
        for (int64_t i = 0; i < wf_safetensors_count(s->files[f]); i++)
            TRY(add_tensor(s, s->files[f], wf_safetensors_entry(s->files[f], i)));
    qsort(s->tensors, (size_t)s->ntensors, sizeof *s->tensors, by_name);
    for (int64_t i = 1; i < s->ntensors; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return wf_fail(WF_ERR_FILE, "tensor %.200s is in %s and again in %s",
                           s->tensors[i].name, wf_safetensors_path(s->tensors[i - 1].file),
                           wf_safetensors_path(s->tensors[i].file));
    return WF_OK;
}

wf_status wf_shards_open(const char *path, wf_shards *out) {
    wf_shards s = {0};
    wf_status status = open_files(path, &s);
    if (status == WF_OK) status = pool(&s);
    if (status != WF_OK)
        wf_shards_close(&s);
    else
        *out = s;
    return status;
}

void wf_shards_close(wf_shards *s) {
    for (int64_t i = 0; i < s->ntensors; i++) free(s->tensors[i].renamed);
    for (int64_t i = 0; i < s->nfiles; i++) wf_safetensors_close(s->files[i]);
    free(s->tensors);
    free(s->files);
    *s = (wf_shards){0};
}

wf_shard_tensor *wf_shards_find(const wf_shards *s, const char *name) {
    const wf_shard_tensor wanted = {.name = name};
    return s->ntensors ? bsearch(&wanted, s->tensors, (size_t)s->ntensors, sizeof wanted, by_name)
                       : NULL;
}
