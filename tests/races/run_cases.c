/* run_cases.c: runs inside oclgrind what check_races.sh wants to see checked.
 *
 *     run_cases SHARD SHARDS          the kernels, every SHARDS-th run beginning with SHARD
 *     run_cases seeded FILE DEFECT    the kernel of seeded.cl
 *     run_cases coverage              what the list below leaves out; needs no device
 *
 * Before each run its name is written to stderr, where oclgrind writes its findings. Sizes are small,
 * as a simulated work-item takes microseconds an instruction, but have several groups, tiles and
 * trips where a race could hide. Variants of libraries are left out: their kernels are not weft's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/run/verify.h"
#include "kernels/operation.h"
#include "tests/kernels/coverage.h"

enum { SEED = 20251123 };

/* A candidate, or NULL: every variant's default. */
static const struct {
    const char *text, *candidate;
} runs[] = {
    {"gemm:f32:m17n9k33:nn", NULL},
    {"gemm:f32:m17n9k18:nt.bias.gelu_tanh", NULL},
    {"gemm:f32:m9n17k18:tn.accumulate", NULL},
    {"gemm:f32:m5n19:tt.bias", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m37n41k19:tt.bias.gelu", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m33n34k9:nt.relu", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=16"},
    {"gemm:f32:m33n34k9:nn.silu", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=16 GROUP_N=8"},
    {"gemm:f32:m33n19k9:nn.act-grad.gelu_tanh", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m33n19k9:nn.act-grad.gelu", "direct ROWS=4 VECTORS=1 WIDTH=4"},
    {"gemm:f32:m33n19k9:nn.act-grad.relu", "direct ROWS=1 VECTORS=2 WIDTH=8"},
    {"gemm:f32:m33n19k9:nn.act-grad.silu", "direct ROWS=6 VECTORS=4 WIDTH=4"},
    {"gemm:f32:m33n19k21:nt.accumulate", "dot ROWS=6 WIDTH=8 DEPTH=8"},
    {"gemm:f32:m17n35k33:nt.panels-b", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m17n35k33:nn.bias.panels-b", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m17n35k9:tn.panels-c", "simple TILE_M=32 TILE_N=32 TILE_K=8 GROUP_M=8 GROUP_N=8"},
    {"gemm:f32:m19n42k67:nt.panels-b", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=64 TILES_M=2 TILES_N=2"},
    {"gemm:f32:m19n42k67:nn.panels-b", "panel ROWS=6 VECTORS=1 WIDTH=8 DEPTH=64 TILES_M=2 TILES_N=2 SHARED=0"},
    {"gemm:f32:m19n42k67:tn.accumulate.panels-c", "panel ROWS=6 VECTORS=2 WIDTH=4 DEPTH=64 TILES_M=2 TILES_N=2"},
    {"gemm:f32:m33n42k131:nn.accumulate", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=64 TILES_M=2 TILES_N=2"},
    {"gemm:f32:m19n37k131:tt.bias", "panel ROWS=6 VECTORS=2 WIDTH=4 DEPTH=64 TILES_M=1 TILES_N=1"},
    {"gemm:f32:m33n42k131:tn.relu", "panel ROWS=6 VECTORS=1 WIDTH=8 DEPTH=64 TILES_M=2 TILES_N=2 SHARED=0"},
    {"gemm:f32:m29n17k20:nt.act-grad.silu", "panel ROWS=14 VECTORS=3 WIDTH=4 DEPTH=256 TILES_M=4 TILES_N=2"},

    {"attention:f32:b2s21t37h2kv1d17ho2po16:causal.dropout:p=0.1", NULL},
    {"attention:f32:b1s18h1d33w5:causal", "simple TILE_ROWS=16 TILE_COLS=16 ITEM_ROWS=2 CHUNK=16"},
    {"attention_delta:f32:b2s18h2d19:causal.dropout:p=0.1", NULL},
    {"attention_backward:f32:b2s21t37h2kv1d17ho2po16:causal.dropout:p=0.1", NULL},
    {"attention:f32:b2s21t37h4kv2d17", "panel WIDTH=8 VECTORS=3 BLOCK=4 STEP=24 SHARED=1"},
    {"attention_backward:f32:b2s21t67h4kv2d17", "panel WIDTH=4 VECTORS=3 BLOCK=6 STEP=24 SHARED=1 PARTS=2"},
    {"attention_backward:f32:b1s18h1d33w5:causal", "simple TILE_ROWS=16 TILE_COLS=16 ITEM_ROWS=2 CHUNK=16"},
    {"attention_backward:f32:b1s19h1d65", "simple TILE_ROWS=16 TILE_COLS=32 ITEM_ROWS=4 CHUNK=64"},

    {"attention:f32:b1s18h5kv3d17ho2group3:causal", NULL},
    {"attention_backward:f32:b1s18h5kv3d17ho2group3", NULL},
    {"attention:f32:b2s21t37h2kv1d17po5ko9:accumulate.causal", NULL},
    {"attention_backward:f32:b2s21t37h2kv1d17po5ko9:accumulate.causal", NULL},
    {"attention:f32:b2s21t37h2kv1d17po16:causal.documents", NULL},
    {"attention_delta:f32:b1s18h2d19:documents", NULL},
    {"attention_backward:f32:b2s21t37h2kv1d17po16:causal.documents", NULL},

    {"norm:f32:rows3n259:eps=1e-05", NULL},
    {"norm:f32:rows2n1029:eps=1e-05", "simple GROUP=256 WIDTH=4"},
    {"norm:f32:rows3n33:eps=1e-05", "simple GROUP=1 WIDTH=16"},
    {"norm_backward:f32:rows3n259", NULL},
    {"norm_backward:f32:rows3n130:residual", "simple GROUP=128 WIDTH=8"},
    {"norm_wgrad:f32:rows131n66", NULL},
    {"norm_wgrad:f32:rows49n70:accumulate", "simple GROUP=16 WIDTH=4 CHUNK=16"},
    {"reduce:f32:rows9n70parts3group3b3pos7site3ga1gap5:bias.dropout.residual.norm:p=0.1,eps=1e-05", NULL},
    {"norm:f32:rows3n259:rms:eps=1e-05", NULL},
    {"norm_backward:f32:rows3n259:residual.rms", NULL},
    {"norm_wgrad:f32:rows131n66:accumulate.rms", NULL},
    {"reduce:f32:rows5n70parts8b1:norm:eps=1e-05", "simple GROUP=32 WIDTH=4"},
    {"reduce:f32:rows5n259parts2:residual.norm.rms:eps=1e-05", NULL},
    {"reduce:f32:rows5n70parts2b1:bias", NULL},
    {"sum_rows:f32:groups1per131n66", NULL},
    {"sum_rows:f32:groups5per49n70:accumulate", "simple GROUP=16 WIDTH=4 CHUNK=16"},
    {"embedding:f32:rows12vocabulary9n70first5", NULL},
    {"embedding_backward:f32:rows40vocabulary9n70first5", NULL},
    {"loss_stats:f32:rows3vocabulary259first128", NULL},
    {"loss_stats:f32:rows3vocabulary1029first128", "simple GROUP=256 WIDTH=4"},
    {"loss_merge:f32:rows70parts3", NULL},
    {"loss_backward:f32:rows3vocabulary259first128", NULL},
    {"rope:f32:s3b2h3d70", NULL},
    {"rope:f32:s3b2h3d19rotated18:inverse", "simple GROUP=16 WIDTH=4"},
    {"gate:f32:rows3n259:silu", NULL},
    {"gate:f32:rows2n1029:gelu_tanh", "simple GROUP=16 WIDTH=4"},
    {"gate:f32:rows3n33:gelu", NULL},
    {"gate:f32:rows3n33:relu", NULL},
    {"gate_backward:f32:rows3n259:silu", NULL},
    {"gate_backward:f32:rows2n1029:gelu_tanh", "simple GROUP=16 WIDTH=4"},
    {"gate_backward:f32:rows3n33:gelu", NULL},
    {"gate_backward:f32:rows3n33:relu", NULL},
    {"activation:f32:rows3n259:silu", NULL},
    {"activation:f32:rows2n1029:gelu_tanh", "simple GROUP=16 WIDTH=4"},
    {"activation:f32:rows3n33:gelu", NULL},
    {"activation:f32:rows3n33:relu", NULL},
    {"adamw:f32:n1029:decay", NULL},
    {"adamw:f32:n130", "simple GROUP=16 WIDTH=4"},
    {"sum_squares:f32:n5003", NULL},
    {"sum_squares:f32:n2051", "simple GROUP=128 WIDTH=4"},
    {"grad_norm:f32:n131", NULL},
    {"fill:f32:rows7n33:value=1.5", NULL},
    {"fill:i32:rows3n1029:value=-7", NULL},
    {"copy:f32:rows7n33", NULL},
    {"copy:i32:rows3n1029", NULL},
};
enum { RUNS = sizeof runs / sizeof *runs };

static int fail(const char *text, const char *sentence) {
    fprintf(stderr, "WRONG %s: %s\n", text, sentence);
    return 1;
}

/* ---- the kernels ----------------------------------------------------------------------------------- */

/* What ok() asks as on a CPU of the same limits: variants for CPUs are checked, too. */
static bool possible(wf_opencl *opencl, const wf_problem *p, const wf_candidate *candidate) {
    const char *why;
    wf_device device = *wf_opencl_device(opencl);
    const wf_variant *variant = &wf_operations[p->op]->variants[candidate->variant];
    for (int type = 0; type <= WF_DEVICE_OTHER; type++) {
        device.type = (wf_device_type)type;
        if (variant->ok(p, candidate, &device, &why)) return true;
    }
    return false;
}

static int run_candidate(wf_opencl *opencl, const wf_problem *p, const wf_candidate *candidate) {
    char text[WF_CASE_BYTES], name[128], options[512];
    wf_verdict verdict;
    wf_problem_print(p, text, sizeof text);
    wf_candidate_print(p, candidate, name, sizeof name);
    fprintf(stderr, "RUN %s [%s]\n", text, name);
    wf_candidate_options(p, candidate, options, sizeof options);
    if (wf_verify_operation(opencl, wf_operations[p->op], p, candidate, NULL, options, SEED, &verdict) != WF_OK)
        return fail(text, wf_last_error());
    fprintf(stderr, "DONE\n");
    if (verdict.skipped) return fail(text, "was refused");
    return verdict.ok ? 0 : fail(text, verdict.sentence);
}

static int run_variants(wf_opencl *opencl, const wf_problem *p) {
    int failed = 0;
    for (int v = 0; v < wf_operations[p->op]->nvariants; v++) {
        wf_candidate candidate;
        wf_candidate_default(p, v, &candidate);
        if (wf_operations[p->op]->variants[v].kind == WF_VARIANT_KERNEL && possible(opencl, p, &candidate))
            failed += run_candidate(opencl, p, &candidate);
    }
    return failed;
}

static int run_one(wf_opencl *opencl, int i) {
    wf_problem p;
    wf_candidate candidate;
    if (wf_problem_parse(runs[i].text, &p) != WF_OK) return fail(runs[i].text, wf_last_error());
    if (!runs[i].candidate) return run_variants(opencl, &p);
    if (wf_candidate_parse(&p, runs[i].candidate, &candidate) != WF_OK)
        return fail(runs[i].text, wf_last_error());
    return run_candidate(opencl, &p, &candidate);
}

/* oclgrind lists its device alone; a program cache is of no use. */
static wf_opencl *open_simulator(void) {
    wf_opencl *opencl;
    const wf_opencl_options options = {0};
    if (wf_opencl_create(&options, &opencl) != WF_OK) {
        fprintf(stderr, "WRONG %s\n", wf_last_error());
        return NULL;
    }
    if (strstr(wf_opencl_device(opencl)->name, "Oclgrind")) return opencl;
    fprintf(stderr, "WRONG the device is %s, not oclgrind's\n", wf_opencl_device(opencl)->name);
    wf_opencl_destroy(opencl);
    return NULL;
}

static int run_shard(int shard, int shards) {
    int failed = 0;
    wf_opencl *opencl = open_simulator();
    if (!opencl) return 1;
    for (int i = shard; i < RUNS; i += shards) failed += run_one(opencl, i);
    wf_opencl_destroy(opencl);
    return failed;
}

/* ---- coverage -------------------------------------------------------------------------------------- */

/* Variants that the runs reach; libraries are none of weft's kernels. */
static void add_variants(const wf_problem *p, const char *candidate, bool reached[WF_OPS][32]) {
    wf_candidate parsed;
    if (candidate && wf_candidate_parse(p, candidate, &parsed) == WF_OK)
        reached[p->op][parsed.variant] = true;
    wf_device device = {.type = WF_DEVICE_CPU, .max_group = 1024, .local_bytes = 32 << 10};
    for (int v = 0; !candidate && v < wf_operations[p->op]->nvariants; v++) {
        const char *why;
        wf_candidate_default(p, v, &parsed);
        for (int type = 0; type <= WF_DEVICE_OTHER; type++) {
            device.type = (wf_device_type)type;
            reached[p->op][v] |= wf_operations[p->op]->variants[v].ok(p, &parsed, &device, &why);
        }
    }
}

static int missing_variants(bool reached[WF_OPS][32]) {
    int failed = 0;
    char text[128];
    for (int op = 0; op < WF_OPS; op++)
        for (int v = 0; wf_operations[op] && v < wf_operations[op]->nvariants; v++) {
            const wf_variant *variant = &wf_operations[op]->variants[v];
            snprintf(text, sizeof text, "%s %s", wf_operations[op]->name, variant->name);
            if (variant->kind == WF_VARIANT_LIBRARY) fprintf(stderr, "LEFT OUT, a library's: %s\n", text);
            else if (!reached[op][v]) failed += fail(text, "no run reaches this variant");
        }
    return failed;
}

static int check_coverage(void) {
    static bool reached[WF_OPS][32];
    coverage all = {0};
    char sentence[160];
    int failed = 0;
    for (int i = 0; i < RUNS; i++) {
        wf_problem p;
        if (wf_problem_parse(runs[i].text, &p) != WF_OK || wf_problem_check(&p) != WF_OK) {
            failed += fail(runs[i].text, wf_last_error());
            continue;
        }
        coverage_add(&all, &p);
        add_variants(&p, runs[i].candidate, reached);
    }
    if (coverage_misses(&all, sentence, sizeof sentence)) failed += fail("coverage", sentence);
    return failed + missing_variants(reached);
}

/* ---- seeded faults ----------------------------------------------------------------------------------- */

enum { SEEDED_GROUP = 16 };

static int seeded_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = (wf_operand){"in", WF_READ, WF_F32, 1, {p->size[0]}};
    out[1] = (wf_operand){"out", WF_WRITE, WF_F32, 1, {p->size[0]}};
    return 2;
}

static bool seeded_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device, const char **why) {
    return true;
}

static int seeded_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t groups = (p->size[0] + SEEDED_GROUP - 1) / SEEDED_GROUP;
    const int32_t local = SEEDED_GROUP;
    out[0] = (wf_launch){.entry = "seeded"};
    wf_launch_geometry(&out[0], 1, &groups, &local);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], 1);
    wf_launch_i32(&out[0], p->size[0]);
    return 1;
}

static double seeded_flops(const wf_problem *p) {
    return 0;
}

static void seeded_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const double *in = t[0].data;
    double *out = t[1].data;
    for (int64_t i = 0; i < p->size[0]; i++) {
        const int64_t group = i / SEEDED_GROUP * SEEDED_GROUP;
        const int64_t next = group + (i - group + 1) % SEEDED_GROUP;
        out[i] = next < p->size[0] ? in[next] : 0;
    }
}

static void seeded_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t i = 0; i < p->size[0]; i++) bound[i] = 0;
}

static const wf_variant seeded_variants[] = {
    {.name = "seeded", .source = "seeded.cl", .ok = seeded_ok, .launches = seeded_launches}};
static const wf_operation seeded_operation = {
    .name = "seeded", .size_names = {"n"}, .operands = seeded_operands, .flops = seeded_flops,
    .reference = seeded_reference, .tolerance = seeded_tolerance, .nvariants = 1, .variants = seeded_variants};

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 16);
    if (file && text && fread(text, 1, (1 << 16) - 1, file) > 0) {
        fclose(file);
        return text;
    }
    if (file) fclose(file);
    free(text);
    return NULL;
}

/* What is computed is of no interest: the fault is oclgrind's to find. */
static int run_seeded(const char *path, const char *defect) {
    const wf_problem p = {.op = WF_OP_COPY, .size = {45}};
    const wf_candidate candidate = {0};
    char options[64];
    wf_verdict verdict;
    char *text = read_text(path);
    if (!text) return fail(path, "cannot be read");
    wf_opencl *opencl = open_simulator();
    snprintf(options, sizeof options, "-DGROUP=%d -DDEFECT=%s", SEEDED_GROUP, defect);
    int failed = !opencl;
    if (opencl && wf_verify_operation(opencl, &seeded_operation, &p, &candidate, text, options, SEED, &verdict) != WF_OK)
        failed = fail("seeded", wf_last_error());
    if (!failed && *defect == '0' && !verdict.ok) failed = fail("seeded, without a fault", verdict.sentence);
    wf_opencl_destroy(opencl);
    free(text);
    return failed;
}

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "coverage")) return check_coverage() != 0;
    if (count == 4 && !strcmp(words[1], "seeded")) return run_seeded(words[2], words[3]) != 0;
    if (count == 3 && atoi(words[2]) > 0) return run_shard(atoi(words[1]), atoi(words[2])) != 0;
    fprintf(stderr, "usage: run_cases SHARD SHARDS | seeded FILE DEFECT | coverage\n");
    return 2;
}
