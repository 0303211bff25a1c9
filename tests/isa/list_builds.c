/* list_builds.c: what vendors' compilers should be given: each distinct pair (source, build options) that
 * the shared list of cases leads to, by every variant's default candidate and by what the operation
 * prefers on described GPUs.
 *
 *     list_builds DIR
 *
 * writes every source, includes resolved, to DIR/<source> and prints one line a build, fields
 * separated by tabs:
 *
 *     number  source  vendors  entries  options  case [candidate]
 *
 *     vendors     of "amd,nvidia,intel,", those on whose GPU ok() holds, and of "cpu8,cpu16,", the CPUs, by the floats of their
 *                 vectors, whose preference it is for a case that should be fast; "-": none, only parsed
 *     entries     those that are launched, each as name=x,y,z with its work-group, joined by ';' */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cases.h"

typedef struct build {
    const char *source;
    char options[512], vendors[64], entries[256], from[WF_CASE_BYTES + 128];
} build;

enum { BUILDS = 1024 };
static build builds[BUILDS];
static int nbuilds;

/* What the predicates ask of a device, as each vendor's drivers report it for most GPUs. */
static const struct {
    const char *vendor;
    wf_device device;
} gpus[] = {
    {"amd,", {.name = "a GPU of AMD", .type = WF_DEVICE_GPU, .compute_units = 64, .max_group = 256, .local_bytes = 64 << 10}},
    {"nvidia,", {.name = "a GPU of NVIDIA", .type = WF_DEVICE_GPU, .compute_units = 100, .max_group = 1024, .local_bytes = 48 << 10}},
    {"intel,", {.name = "a GPU of Intel", .type = WF_DEVICE_GPU, .compute_units = 64, .max_group = 512, .local_bytes = 64 << 10}},
};
enum { GPUS = sizeof gpus / sizeof *gpus };

/* What is asked of CPUs: cases whose inner loops are nearly all of the time. */
static const struct {
    const char *vendor;
    int32_t vector_floats;
} cpus[] = {{"cpu8,", 8}, {"cpu16,", 16}};
static const char *const fast[] = {
    "gemm:f32:m1024n1024k1024:nn",
    "gemm:f32:m1024n1024k1024:nt.bias.gelu_tanh",
    "gemm:f32:m1024n1024k1024:tn.accumulate",
    "gemm:f32:m1024n1024k1024:nt.panels-b",
    "gemm:f32:m1024n1024k1024:nn.act-grad.panels-b.silu",
    "gemm:f32:m1024n1024k1024:tn.accumulate.panels-c",
    "attention:f32:b1s1024t1024h16d64:causal",
    "attention:f32:b1s1024t1024h8d128:causal",
    "attention_backward:f32:b1s1024t1024h16d64:causal",
    "attention_backward:f32:b1s1024t1024h8d128:causal",
    NULL,
};

/* What real models have, beyond the shared list: those lists are for sizes that break kernels. */
static const char *const more[] = {
    "attention:f32:b1s64h1d64:causal.dropout:p=0.1",  "attention_backward:f32:b1s64h1d64:causal.dropout:p=0.1",
    "attention:f32:b1s64h1d128:causal.dropout:p=0.1", "attention_backward:f32:b1s64h1d128:causal.dropout:p=0.1",
    "attention:f32:b1s64h1d128:causal.dropout.documents:p=0.1",
    "attention_backward:f32:b1s64h1d128:causal.dropout.documents:p=0.1",
    NULL,
};

static void die(const char *sentence) {
    fprintf(stderr, "list_builds: %s\n", sentence);
    exit(2);
}

static build *find_build(const char *source, const char *options) {
    for (int i = 0; i < nbuilds; i++)
        if (!strcmp(builds[i].source, source) && !strcmp(builds[i].options, options)) return &builds[i];
    if (nbuilds == BUILDS) die("more builds than there is room for");
    builds[nbuilds].source = source;
    snprintf(builds[nbuilds].options, sizeof builds->options, "%s", options);
    return &builds[nbuilds++];
}

static void add_word(char *words, size_t bytes, const char *word) {
    if (strstr(words, word)) return;
    const size_t used = strlen(words);
    if (snprintf(words + used, bytes - used, "%s", word) >= (int)(bytes - used)) die("a line is too long");
}

static void add_entries(build *b, const wf_launch *launches, int n) {
    for (int i = 0; i < n; i++) {
        char entry[128];
        if (launches[i].library) continue;
        const int32_t *local = launches[i].local;
        snprintf(entry, sizeof entry, "%s=%d,%d,%d;", launches[i].entry, local[0], local[1], local[2]);
        add_word(b->entries, sizeof b->entries, entry);
    }
}

static bool launches_kernels(const wf_launch *launches, int n) {
    for (int i = 0; i < n; i++)
        if (!launches[i].library) return true;
    return false;
}

/* NULL: what nothing launches. */
static build *add_candidate(const wf_problem *p, const wf_candidate *candidate) {
    const wf_variant *variant = &wf_operations[p->op]->variants[candidate->variant];
    wf_launch launches[WF_LAUNCHES];
    char options[512], text[WF_CASE_BYTES], name[120];
    const char *why;
    const wf_device cpu = {.name = "a CPU", .type = WF_DEVICE_CPU, .compute_units = 8, .max_group = 4096, .local_bytes = 1 << 20};
    bool possible = variant->ok(p, candidate, &cpu, &why);
    for (int i = 0; i < GPUS; i++) possible |= variant->ok(p, candidate, &gpus[i].device, &why);
    const int n = possible ? variant->launches(p, candidate, launches) : 0;
    if (!variant->source || !launches_kernels(launches, n)) return NULL;
    wf_candidate_options(p, candidate, options, sizeof options);
    wf_problem_print(p, text, sizeof text);
    wf_candidate_print(p, candidate, name, sizeof name);
    build *b = find_build(variant->source, options);
    if (!*b->from) snprintf(b->from, sizeof b->from, "%s [%s]", text, name);
    for (int i = 0; i < GPUS; i++)
        if (variant->ok(p, candidate, &gpus[i].device, &why)) add_word(b->vendors, sizeof b->vendors, gpus[i].vendor);
    add_entries(b, launches, n);
    return b;
}

static void add_fast(const char *text) {
    for (size_t i = 0; i < sizeof cpus / sizeof *cpus; i++) {
        const wf_device cpu = {.name = "a CPU", .type = WF_DEVICE_CPU, .compute_units = 2, .max_group = 4096,
                               .local_bytes = 1 << 20, .vector_floats = cpus[i].vector_floats};
        wf_problem p;
        wf_candidate candidate;
        build *b = NULL;
        if (wf_problem_parse(text, &p) != WF_OK) die(wf_last_error());
        if (wf_candidate_for_device(&p, &cpu, &candidate) == WF_OK) b = add_candidate(&p, &candidate);
        if (!b) die("a CPU prefers nothing for a case that should be fast");
        add_word(b->vendors, sizeof b->vendors, cpus[i].vendor);
    }
}

static void add_case(const char *text) {
    wf_problem p;
    wf_candidate candidate;
    if (wf_problem_parse(text, &p) != WF_OK) die(wf_last_error());
    for (int v = 0; v < wf_operations[p.op]->nvariants; v++) {
        wf_candidate_default(&p, v, &candidate);
        add_candidate(&p, &candidate);
    }
    for (int i = 0; i < GPUS; i++)
        if (wf_candidate_for_device(&p, &gpus[i].device, &candidate) == WF_OK) add_candidate(&p, &candidate);
}

static void write_source(const char *folder, const char *source) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, source);
    FILE *file = fopen(path, "w");
    if (!file || fputs(wf_kernel_source(source), file) < 0 || fclose(file)) die("a source cannot be written");
}

int main(int count, char **words) {
    if (count != 2) die("usage: list_builds DIR");
    for (int i = 0; wf_cases[i]; i++) add_case(wf_cases[i]);
    for (int i = 0; more[i]; i++) add_case(more[i]);
    for (int i = 0; fast[i]; i++) add_fast(fast[i]);
    for (int i = 0; i < nbuilds; i++) {
        const build *b = &builds[i];
        write_source(words[1], b->source);
        printf("%d\t%s\t%s\t%s\t%s\t%s\n", i, b->source, *b->vendors ? b->vendors : "-", b->entries, b->options, b->from);
    }
    return 0;
}
