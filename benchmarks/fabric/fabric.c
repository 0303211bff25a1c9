/* fabric.c: how fast ranks exchange device memory: each collective over each transport, beside Open MPI's own on host memory
 * and a plain copy of the bytes that a rank must write (collectives.h), which all ranks make at the same time. The ways take
 * turns, a sample each, so that what else the machine does hits all of them; the ranks begin together, the slowest counts.
 *
 *     mpirun -np N benchmarks/fabric/fabric [options]      or: make bench-fabric
 *
 * Of each way, the median of its samples (--best: the least): GB/s of the bytes that a rank must write; the copy's time in percent of it, with half
 * the distance of the quartiles; and how many times as fast as Open MPI's it is. */
#include <getopt.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/fabric/collectives.h"
#include "host/device/opencl.h"
#include "host/fabric/internal.h"

enum { COPY, THEIRS, FIRST_TRANSPORT, WAYS = FIRST_TRANSPORT + WF_TRANSPORTS, MOST_SIZES = 32 };

typedef struct options {
    bool json, best, commands, transport[WF_TRANSPORTS], collective[COLLECTIVES];
    int64_t size[MOST_SIZES], chunk_bytes;
    int sizes;
    wf_link link;
    wf_bench_options bench;
} options;

typedef struct bench {
    const options *options;
    wf_fabric *fabric;
    wf_opencl *device;
    over_mpi *mpi;
    over_fabric *over[WF_TRANSPORTS]; /* NULL: not asked for, or it does not work between all */
} bench;

/* ---- options ---- */

static const char help[] =
    "mpirun -np N fabric [--json] [--best] [--commands] [--seconds S] [--sizes 64K,16M] [--transports mpi,staged,window]\n"
    "       [--collectives all-gather,...] [--chunk BYTES] [--link GB/S] [--latency US]\n"
    "best: of each way the fastest sample instead of the median, where others use the machine;\n"
    "commands: the fabric reaches the device's memory by commands only, as it does that of a discrete device;\n"
    "S: to spend on each way of a case, 0.3; sizes: bytes that a rank contributes; chunk: of staged and mpi;\n"
    "link, latency: of an emulated one, for weft's transports only.\n";

static int64_t parse_bytes(const char *text) {
    char *end;
    const double number = strtod(text, &end);
    return (int64_t)(number * (*end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : 1));
}

/* true: the word is one of the n names, which is then on. */
static bool turn_on(const char *word, const char *(*name)(int), int n, bool *on) {
    for (int i = 0; i < n; i++)
        if (strcmp(word, name(i)) == 0) return on[i] = true;
    return false;
}

static const char *transport(int i) {
    return wf_transport_name((wf_transport_kind)i);
}

static const char *collective_name(int i) {
    return collective_names[i];
}

static bool parse_list(options *o, int option, char *list) {
    if (option == 't') memset(o->transport, 0, sizeof o->transport);
    if (option == 'c') memset(o->collective, 0, sizeof o->collective);
    if (option == 'z') o->sizes = 0;
    for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
        bool good = false;
        if (option == 't') good = turn_on(word, transport, WF_TRANSPORTS, o->transport);
        if (option == 'c') good = turn_on(word, collective_name, COLLECTIVES, o->collective);
        if (option == 'z') good = o->sizes < MOST_SIZES && (o->size[o->sizes++] = parse_bytes(word)) > 0;
        if (!good) return false;
    }
    return true;
}

static bool parse(int argc, char **argv, options *o) {
    static const struct option table[] = {{"json", 0, 0, 'j'},       {"best", 0, 0, 'b'},    {"commands", 0, 0, 'd'}, {"seconds", 1, 0, 's'},
                                          {"sizes", 1, 0, 'z'},      {"chunk", 1, 0, 'k'},   {"link", 1, 0, 'l'},     {"latency", 1, 0, 'L'},
                                          {"transports", 1, 0, 't'}, {"collectives", 1, 0, 'c'}, {0}};
    *o = (options){.size = {64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}, .sizes = 6, .bench.seconds = 0.3};
    memset(o->collective, 1, sizeof o->collective);
    memset(o->transport + 1, 1, sizeof o->transport - 1);
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        if (c == 'j') o->json = true;
        else if (c == 'b') o->best = true;
        else if (c == 'd') o->commands = true;
        else if (c == 's') o->bench.seconds = strtod(optarg, NULL);
        else if (c == 'k') o->chunk_bytes = parse_bytes(optarg);
        else if (c == 'l') o->link.bytes_per_s = 1e9 * strtod(optarg, NULL);
        else if (c == 'L') o->link.latency_s = 1e-6 * strtod(optarg, NULL);
        else if (c == '?' || !parse_list(o, c, optarg)) return false;
    }
    return optind == argc && o->bench.seconds > 0;
}

static int64_t largest(const options *o) {
    int64_t most = 0;
    for (int i = 0; i < o->sizes; i++)
        if (o->size[i] > most) most = o->size[i];
    return most;
}

/* ---- what was measured ---- */

static const char *way_name(int way) {
    return way == COPY ? "copy" : way == THEIRS ? "open-mpi" : transport(way - FIRST_TRANSPORT);
}

static void print_head(const bench *b) {
    if (b->options->json) return;
    printf("%-15s %10s", "collective", "bytes");
    for (int way = 0; way < WAYS; way++)
        if (way < FIRST_TRANSPORT || b->over[way - FIRST_TRANSPORT])
            printf(way == COPY ? " | %7s" : way == THEIRS ? " | %7s  %% of copy" : " | %7s  %% of copy  x MPI", way_name(way));
    printf("\n");
}

static double half_range(const wf_spread *s) {
    return 0.5 * (s->quartile3 - s->quartile1) / s->median;
}

static void print_text(const options *o, const task *t, const wf_spread *spread, const bool *there) {
    const double bytes = (double)task_written_bytes(t);
    printf("%-15s %10lld", collective_names[t->what], (long long)task_size_bytes(t));
    for (int way = 0; way < WAYS; way++) {
        if (!there[way]) continue;
        const double share = 100 * spread[COPY].median / spread[way].median;
        printf(" | %7.2f", 1e-9 * bytes / spread[way].median);
        if (way != COPY && o->best) printf("  %9.0f", share);
        if (way != COPY && !o->best) printf("  %4.0f +-%3.0f", share, share * half_range(&spread[way]));
        if (way >= FIRST_TRANSPORT) printf("  %5.2f", spread[THEIRS].median / spread[way].median);
    }
    printf("\n");
}

static void print_json(const options *o, const task *t, const wf_spread *spread, const bool *there) {
    printf("{\"collective\": \"%s\", \"ranks\": %d, \"bytes\": %lld, \"written_bytes\": %lld", collective_names[t->what], t->ranks,
           (long long)task_size_bytes(t), (long long)task_written_bytes(t));
    for (int way = 0; way < WAYS; way++) {
        if (!there[way]) continue;
        const wf_spread *const s = &spread[way];
        printf(", \"%s\": {\"seconds\": %.4g, \"minimum\": %.4g, \"quartiles\": [%.4g, %.4g], \"samples\": %d, \"gb_per_s\": %.4g", way_name(way), s->median,
               s->minimum, s->quartile1, s->quartile3, s->samples, 1e-9 * (double)task_written_bytes(t) / s->median);
        if (way != COPY) printf(", \"of_copy\": %.4g", spread[COPY].median / s->median);
        if (way >= FIRST_TRANSPORT) printf(", \"of_open_mpi\": %.4g", spread[THEIRS].median / s->median);
        printf("}");
    }
    printf("}\n");
}

/* A round trip is two messages. */
static void halve(wf_spread *s) {
    s->minimum *= 0.5, s->quartile1 *= 0.5, s->median *= 0.5, s->quartile3 *= 0.5;
}

static wf_status measure(bench *b, const task *t) {
    wf_bench_item item[WAYS];
    wf_spread packed[WAYS], spread[WAYS] = {0};
    bool there[WAYS] = {[COPY] = true, [THEIRS] = true};
    int n = 2;
    TRY(wf_fabric_agree(b->fabric, over_mpi_prepare(b->mpi, t, &item[THEIRS])));
    item[COPY] = over_mpi_copy(b->mpi, t);
    for (int kind = 0; kind < WF_TRANSPORTS; kind++)
        if ((there[FIRST_TRANSPORT + kind] = b->over[kind] != NULL)) TRY(over_fabric_prepare(b->over[kind], t, &item[n++]));
    TRY(wf_bench_measure(b->fabric, item, n, &b->options->bench, packed));
    for (int way = 0, from = 0; way < WAYS; way++)
        if (there[way]) spread[way] = packed[from++];
    for (int way = THEIRS; way < WAYS && t->what == SEND_RECEIVE; way++) halve(&spread[way]);
    for (int way = 0; way < WAYS && b->options->best; way++) spread[way].median = spread[way].minimum;
    if (t->rank > 0) return WF_OK;
    (b->options->json ? print_json : print_text)(b->options, t, spread, there);
    fflush(stdout);
    return WF_OK;
}

static wf_status measure_all(bench *b) {
    task t;
    for (int c = 0; c < COLLECTIVES; c++)
        for (int i = 0; i < b->options->sizes && b->options->collective[c]; i++)
            if (task_make((collective)c, wf_fabric_rank(b->fabric), wf_fabric_ranks(b->fabric), b->options->size[i], &t))
                TRY(measure(b, &t));
    return WF_OK;
}

/* ---- life ---- */

/* Does it work between each two ranks? All come to the same answer. */
static bool works(const bench *b, wf_transport_kind kind) {
    bool all = kind != WF_TRANSPORT_NONE;
    for (int32_t r = 0; r < wf_fabric_ranks(b->fabric); r++)
        for (int32_t peer = 0; peer < r; peer++)
            all = all && wf_fabric_verdict(b->fabric, r, peer, kind) == WF_PAIR_PASSED &&
                  wf_fabric_verdict(b->fabric, peer, r, kind) == WF_PAIR_PASSED;
    return all;
}

static wf_status open_ways(bench *b) {
    const int64_t most = largest(b->options);
    TRY(wf_fabric_agree(b->fabric, over_mpi_create(wf_fabric_ranks(b->fabric), most, &b->mpi)));
    for (int kind = 0; kind < WF_TRANSPORTS; kind++)
        if (b->options->transport[kind] && works(b, (wf_transport_kind)kind))
            TRY(over_fabric_create(b->fabric, b->device, (wf_transport_kind)kind, most, &b->over[kind]));
    return WF_OK;
}

static void close_ways(bench *b) {
    for (int kind = 0; kind < WF_TRANSPORTS; kind++) over_fabric_destroy(b->over[kind]);
    over_mpi_destroy(b->mpi);
}

static wf_status introduce(bench *b) {
    char *text = NULL;
    if (wf_fabric_rank(b->fabric) > 0 || b->options->json) return WF_OK;
    TRY(wf_fabric_describe(b->fabric, &text));
    printf("%s, a rank's: %d compute units\n%s", wf_opencl_device(b->device)->name, wf_opencl_device(b->device)->compute_units, text);
    free(text);
    return WF_OK;
}

static wf_status run(const options *o) {
    const MPI_Comm world = MPI_COMM_WORLD;
    wf_bootstrap boot;
    bench b = {.options = o};
    TRY(wf_bootstrap_mpi(&world, &boot));
    wf_status status;
    TRY_GOTO(boot.ranks > 1 ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "one rank has nobody to talk to: mpirun -np 2"), destroy_boot);
    TRY_GOTO(wf_opencl_create(&(wf_opencl_options){.node_rank = boot.node_rank, .node_ranks = boot.node_ranks}, &b.device), destroy_boot);
    if (o->commands) b.device->direct = false;
    TRY_GOTO(wf_fabric_create(&boot, b.device, &(wf_fabric_options){.chunk_bytes = o->chunk_bytes, .link = o->link}, &b.fabric), destroy_device);
    TRY_GOTO(open_ways(&b), close_ways);
    TRY_GOTO(introduce(&b), close_ways);
    if (boot.rank == 0) print_head(&b);
    status = measure_all(&b);

close_ways:
    close_ways(&b);
    wf_fabric_destroy(b.fabric);
destroy_device:
    wf_opencl_destroy(b.device);
destroy_boot:
    boot.destroy(boot.self);
    return status;
}

int main(int argc, char **argv) {
    options o;
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "%s", help);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (run(&o) != WF_OK) {
        fprintf(stderr, "%s\n", wf_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
    return 0;
}
