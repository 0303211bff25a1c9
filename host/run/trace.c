/* trace.c: what all ranks did and when, as one Chrome-trace JSON (Perfetto, chrome://tracing).
 *
 * One process per rank, one thread per lane, one slice per step instance, arrows from what sent a
 * message to what received it. An exchange says for how long kernels ran on its rank meanwhile: so
 * much of it is hidden. Kernels carry the device's own times where the context profiles, else the
 * host's view (from submission, or the end of the kernel before, until its completion was seen).
 * All times are aligned to rank 0's clock: a message from rank 0 cannot arrive before it left, which
 * bounds the difference of the clocks from above, and one to rank 0 bounds it from below (Cristian,
 * "Probabilistic clock synchronization", 1989). Several rounds tighten both bounds; the middle is the
 * offset, half the width its uncertainty, and both are written into the file.
 *
 * The file is written by rank 0 under a temporary name, synced and renamed. */
#include "host/run/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 24, CHUNK_BYTES = 1 << 20 };

/* ---- recording -------------------------------------------------------------------------------------------- */

wf_status wf_runner_trace(wf_runner *r, bool on) {
    r->trace.on = on;
    if (on) r->trace.nrecords = 0;
    return WF_OK;
}

bool wf_runner_traced(const wf_runner *r) {
    return r->trace.on;
}

/* The clocks are compared here, as this waits for the device: within a run it would stall what is traced. */
wf_status wf_trace_begin(wf_runner *r) {
    if (!r->trace.on) return WF_OK;
    TRY(wf_clock_measure(r->opencl));
    int64_t need = r->trace.nrecords;
    for (int l = 0; l < WF_LANES; l++) need += r->now->instances[l];
    if (need <= r->trace.capacity) return WF_OK;
    wf_record *const records = realloc(r->trace.records, (size_t)need * sizeof *records);
    if (!records) return wf_fail(WF_ERR_MEMORY, "no host memory to trace %lld steps", (long long)need);
    r->trace.records = records;
    r->trace.capacity = need;
    return WF_OK;
}

int64_t wf_trace_start(wf_runner *r, const wf_instance *i) {
    if (!r->trace.on) return -1;
    r->trace.records[r->trace.nrecords] =
        (wf_record){.step = i->step_index, .call = i->call_index, .seq = i->seq, .start_s = wf_clock_s()};
    return r->trace.nrecords++;
}

/* The end of the same lane's step before, or 0. */
static double end_before(const wf_runner *r, int64_t record) {
    const int lane = r->schedule->steps[r->trace.records[record].step].lane;
    for (int64_t i = record - 1; i >= 0; i--)
        if (r->schedule->steps[r->trace.records[i].step].lane == lane) return r->trace.records[i].end_s;
    return 0;
}

void wf_trace_end(wf_runner *r, int64_t record, wf_event *event) {
    if (record < 0) return;
    wf_record *const x = &r->trace.records[record];
    if (event && wf_event_times(event, &x->start_s, &x->end_s) == WF_OK) {
        x->device_clock = true;
        return;
    }
    const double before = end_before(r, record);
    if (x->start_s < before) x->start_s = before;
    x->end_s = wf_clock_s();
}

/* ---- aligning clocks ---------------------------------------------------------------------------------------- */

typedef struct ticks {
    double sent, received;      /* clock when this round's message left; when the last round's came */
} ticks;

typedef struct clock_offset {
    double offset_s, uncertainty_s; /* this rank's clock minus rank 0's */
} clock_offset;

/* Bounds from one round: rank 0's message left at T0 and was here by t1: t1 - T0 is at least the
 * offset; mine left at t0 and was at rank 0 by T1: t0 - T1 is at most the offset. */
static wf_status align(wf_runner *r, clock_offset *out) {
    const int32_t me = wf_fabric_rank(r->fabric), ranks = wf_fabric_ranks(r->fabric);
    ticks *const all = calloc((size_t)ranks, sizeof *all);
    if (!all) return wf_fail(WF_ERR_MEMORY, "no host memory to align the clocks of %d ranks", ranks);
    double low = -1e300, high = 1e300, sent_before = 0;
    ticks mine = {0};
    wf_status status = WF_OK;
    for (int i = 0; i <= ROUNDS && status == WF_OK; i++) {
        mine.sent = wf_clock_s();
        status = wf_fabric_all_gather(r->fabric, &mine, sizeof mine, all);
        mine.received = wf_clock_s();
        if (mine.received - all[0].sent < high) high = mine.received - all[0].sent;
        if (i && sent_before - all[0].received > low) low = sent_before - all[0].received;
        sent_before = mine.sent;
    }
    free(all);
    *out = me ? (clock_offset){(low + high) / 2, (high - low) / 2} : (clock_offset){0, 0};
    return status;
}

/* ---- this rank's events as text --------------------------------------------------------------------------------- */

static void put_string(FILE *f, const char *text) {
    fputc('"', f);
    for (const char *c = text ? text : ""; *c; c++) {
        if (*c == '"' || *c == '\\') fputc('\\', f);
        if ((unsigned char)*c < 0x20)
            fprintf(f, "\\u%04x", *c);
        else
            fputc(*c, f);
    }
    fputc('"', f);
}

static void put_name(FILE *f, const char *kind, int pid, int tid, const char *name) {
    fprintf(f, ",\n{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":", kind, pid, tid);
    put_string(f, name);
    fprintf(f, "}}");
}

static void put_kernel(FILE *f, const wf_schedule *s, const wf_step *step) {
    const wf_chosen *const c = &s->problems[step->problem];
    char text[WF_CASE_BYTES];
    wf_problem_print(&c->problem, text, sizeof text);
    fprintf(f, ",\"problem\":");
    put_string(f, text);
    wf_candidate_print(&c->problem, &c->candidate, text, sizeof text);
    fprintf(f, ",\"candidate\":");
    put_string(f, text);
    fprintf(f, ",\"flops\":%.0f,\"bytes\":%.0f", wf_operations[c->problem.op]->flops(&c->problem),
            wf_problem_bytes(&c->problem));
}

static int64_t view_bytes(const wf_schedule *s, const wf_view *v) {
    return wf_view_elements(v) * wf_dtype_bytes((wf_dtype)s->buffers[v->buffer].dtype);
}

static void put_exchange(FILE *f, const wf_runner *r, const wf_step *step) {
    const wf_schedule *const s = r->schedule;
    const wf_exchange *const x = &s->exchanges[step->exchange];
    const wf_view *v = &s->views[step->view];
    fprintf(f, ",\"collective\":\"%s\",\"hop\":%d", wf_collective_name((wf_collective)x->collective), x->hop);
    if (x->kind == WF_RETURN) {
        fprintf(f, ",\"returns\":true");
        return;
    }
    if (x->in_place) fprintf(f, ",\"in_place\":true");
    if (x->to >= 0)
        fprintf(f, ",\"to\":%d,\"sent_bytes\":%" PRId64 ",\"sent_by\":\"%s\"", x->to, view_bytes(s, v++),
                wf_transport_name(wf_exchange_sends_by(r, x)));
    if (x->from >= 0)
        fprintf(f, ",\"from\":%d,\"received_bytes\":%" PRId64 ",\"received_by\":\"%s\"", x->from, view_bytes(s, v),
                wf_transport_name(wf_exchange_receives_by(r, x)));
}

/* Both ends of a pipeline's channel stand on lanes of different names. */
static int channel_lane(int lane) {
    return lane == WF_LANE_PP_RECV_F ? WF_LANE_PP_SEND_F : lane == WF_LANE_PP_RECV_B ? WF_LANE_PP_SEND_B : lane;
}

static void put_arrow(FILE *f, const wf_schedule *s, const char *phase, int lane, int from, int to, int64_t number, double us) {
    fprintf(f, ",\n{\"ph\":\"%s\",\"bp\":\"e\",\"cat\":\"message\",\"name\":\"message\",\"id\":\"%d-%d-%d-%" PRId64
               "\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f}",
            phase, from, to, channel_lane(lane), number, s->rank, lane, us);
}

/* When this rank's device computed. */
typedef struct busy {
    int64_t count;              /* of kernels, one after another */
    double *start_s, *end_s, *before_s; /* before_s: of all kernels before this one */
} busy;

typedef struct writer {
    FILE *file;
    double base_s;              /* this rank's clock at time 0 of the file */
    int64_t *messages;          /* [ranks][lanes][sent, received] so far */
    busy busy;
    double exchanges_s, hidden_s; /* all lanes' exchanges; of these what kernels ran meanwhile */
} writer;

static bool find_busy(const wf_runner *r, busy *b) {
    const size_t n = (size_t)r->trace.nrecords + 1;
    double sum_s = 0;
    *b = (busy){.start_s = calloc(n, sizeof(double)), .end_s = calloc(n, sizeof(double)), .before_s = calloc(n, sizeof(double))};
    if (!b->start_s || !b->end_s || !b->before_s) return false;
    for (int64_t i = 0; i < r->trace.nrecords; i++) {
        const wf_record *const x = &r->trace.records[i];
        if (r->schedule->steps[x->step].kind != WF_STEP_KERNEL) continue;
        const double after_s = b->count ? b->end_s[b->count - 1] : x->start_s; /* clocks' errors aside they follow each other */
        b->start_s[b->count] = x->start_s > after_s ? x->start_s : after_s;
        b->end_s[b->count] = x->end_s > b->start_s[b->count] ? x->end_s : b->start_s[b->count];
        b->before_s[b->count] = sum_s;
        sum_s += b->end_s[b->count] - b->start_s[b->count];
        b->count++;
    }
    return true;
}

static void free_busy(busy *b) {
    free(b->start_s);
    free(b->end_s);
    free(b->before_s);
}

/* Seconds of kernels until then. */
static double busy_until(const busy *b, double s) {
    int64_t low = 0, high = b->count; /* kernels before `low` have started, those from `high` on have not */
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (b->start_s[middle] <= s) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return 0;
    const double end_s = b->end_s[low - 1] < s ? b->end_s[low - 1] : s;
    return b->before_s[low - 1] + end_s - b->start_s[low - 1];
}

static void put_record(writer *w, const wf_runner *r, const wf_record *x) {
    const wf_schedule *const s = r->schedule;
    const wf_step *const step = &s->steps[x->step];
    const wf_call *const call = &s->calls[x->call];
    const double start_us = (x->start_s - w->base_s) * 1e6, length_us = (x->end_s - x->start_s) * 1e6;
    fprintf(w->file, ",\n{\"ph\":\"X\",\"cat\":\"%s\",\"name\":", step->kind == WF_STEP_KERNEL ? "kernel" : "exchange");
    put_string(w->file, step->site);
    fprintf(w->file, ",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"segment\":", s->rank, step->lane, start_us,
            length_us > 0 ? length_us : 0);
    put_string(w->file, s->segments[call->segment].name);
    fprintf(w->file, ",\"layer\":%d,\"microbatch\":%d,\"seq\":%" PRId64 ",\"clock\":\"%s\"", call->layer, call->microbatch,
            x->seq, x->device_clock ? "device" : "host");
    if (step->kind == WF_STEP_KERNEL) {
        put_kernel(w->file, s, step);
        fprintf(w->file, "}}");
        return;
    }
    put_exchange(w->file, r, step);
    const double hidden_s = length_us > 0 ? busy_until(&w->busy, x->end_s) - busy_until(&w->busy, x->start_s) : 0;
    if (step->lane != WF_LANE_RETURN) {
        w->exchanges_s += length_us > 0 ? 1e-6 * length_us : 0;
        w->hidden_s += hidden_s;
    }
    fprintf(w->file, ",\"hidden_us\":%.3f}}", 1e6 * hidden_s);
    const wf_exchange *const e = &s->exchanges[step->exchange];
    const int lane = channel_lane(step->lane);
    if (e->to >= 0)
        put_arrow(w->file, s, "s", step->lane, s->rank, e->to, w->messages[(e->to * WF_LANES + lane) * 2]++, start_us);
    if (e->from >= 0)
        put_arrow(w->file, s, "f", step->lane, e->from, s->rank, w->messages[(e->from * WF_LANES + lane) * 2 + 1]++,
                  start_us + (length_us > 0 ? length_us : 0));
}

static void put_rank(writer *w, const wf_runner *r, const clock_offset *clock) {
    const wf_schedule *const s = r->schedule;
    char name[64];
    snprintf(name, sizeof name, "rank %d", s->rank);
    put_name(w->file, "process_name", s->rank, 0, name);
    for (int l = 0; l < WF_LANES; l++)
        if (r->lane[l].ring) put_name(w->file, "thread_name", s->rank, l, wf_lane_name((wf_lane)l));
    fprintf(w->file, ",\n{\"ph\":\"M\",\"name\":\"clock\",\"pid\":%d,\"tid\":0,\"args\":{\"offset_us\":%.3f,\"uncertainty_us\":%.3f}}",
            s->rank, clock->offset_s * 1e6, clock->uncertainty_s * 1e6);
    for (int64_t i = 0; i < r->trace.nrecords; i++) put_record(w, r, &r->trace.records[i]);
    fprintf(w->file, ",\n{\"ph\":\"M\",\"name\":\"exchanges\",\"pid\":%d,\"tid\":0,\"args\":{\"total_us\":%.3f,\"hidden_us\":%.3f}}",
            s->rank, w->exchanges_s * 1e6, w->hidden_s * 1e6);
}

static wf_status format(const wf_runner *r, double base_s, const clock_offset *clock, char **text_out, size_t *bytes_out) {
    writer w = {.base_s = base_s};
    w.messages = calloc((size_t)r->schedule->ranks * WF_LANES * 2, sizeof *w.messages);
    w.file = open_memstream(text_out, bytes_out);
    const bool ready = find_busy(r, &w.busy) && w.file && w.messages;
    if (ready) put_rank(&w, r, clock);
    const bool bad = !ready || ferror(w.file);
    const bool lost = w.file && fclose(w.file) != 0;
    free_busy(&w.busy);
    free(w.messages);
    if (bad || lost)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the text of a trace of %" PRId64 " steps", r->trace.nrecords);
    return WF_OK;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

/* Time 0 of the file on rank 0's clock: the earliest start of any rank. */
static wf_status earliest(wf_runner *r, const clock_offset *clock, double *out) {
    const int32_t ranks = wf_fabric_ranks(r->fabric);
    double mine = 1e300, *const all = calloc((size_t)ranks, sizeof *all);
    if (!all) return wf_fail(WF_ERR_MEMORY, "no host memory to merge traces of %d ranks", ranks);
    for (int64_t i = 0; i < r->trace.nrecords; i++)
        if (r->trace.records[i].start_s - clock->offset_s < mine) mine = r->trace.records[i].start_s - clock->offset_s;
    const wf_status status = wf_fabric_all_gather(r->fabric, &mine, sizeof mine, all);
    *out = 1e300;
    for (int32_t i = 0; i < ranks; i++)
        if (all[i] < *out) *out = all[i];
    if (*out == 1e300) *out = 0;
    free(all);
    return status;
}

/* All ranks' texts, in order of ranks, into rank 0's file: in rounds of one chunk per rank. Each
 * rank's text stays together. */
static wf_status collect_text(wf_runner *r, const char *text, int64_t bytes, FILE *file) {
    const int32_t ranks = wf_fabric_ranks(r->fabric);
    int64_t *const length = calloc((size_t)ranks, sizeof *length);
    char *const chunk = calloc(1, CHUNK_BYTES), *const all = calloc((size_t)ranks, CHUNK_BYTES);
    wf_status status = length && chunk && all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to merge traces");
    TRY_GOTO(wf_fabric_agree(r->fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(r->fabric, &bytes, sizeof bytes, length), done);
    for (int32_t rank = 0; rank < ranks; rank++)
        for (int64_t at = 0; at < length[rank]; at += CHUNK_BYTES) {
            const int64_t n = length[rank] - at < CHUNK_BYTES ? length[rank] - at : CHUNK_BYTES;
            if (rank == wf_fabric_rank(r->fabric)) memcpy(chunk, text + at, (size_t)n);
            TRY_GOTO(wf_fabric_all_gather(r->fabric, chunk, n, all), done);
            if (file) fwrite(all + rank * n, 1, (size_t)n, file);
        }
done:
    free(length);
    free(chunk);
    free(all);
    return status;
}

static wf_status open_file(const char *path, char *temporary, size_t bytes, FILE **out) {
    snprintf(temporary, bytes, "%s.tmp%ld", path, (long)getpid());
    *out = fopen(temporary, "w");
    if (!*out) return wf_fail(WF_ERR_FILE, "cannot write the trace file %s: %s", temporary, strerror(errno));
    fprintf(*out, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"program\":\"weft\",\"clock\":\"rank 0, see the clock events\"},\n"
                  "\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"trace\",\"pid\":0,\"tid\":0,\"args\":{}}");
    return WF_OK;
}

static wf_status close_file(FILE *file, const char *temporary, const char *path, wf_status status) {
    fprintf(file, "\n]}\n");
    const bool bad = fflush(file) != 0 || ferror(file) || fsync(fileno(file)) != 0;
    const int error = errno;
    if ((fclose(file) != 0 || bad) && status == WF_OK)
        status = wf_fail(WF_ERR_FILE, "cannot write the trace file %s: %s", temporary, strerror(error));
    if (status == WF_OK && rename(temporary, path) != 0)
        status = wf_fail(WF_ERR_FILE, "cannot rename %s to %s: %s", temporary, path, strerror(errno));
    if (status != WF_OK) remove(temporary);
    return status;
}

static wf_status write_merged(wf_runner *r, const char *path, const char *text, size_t bytes) {
    char temporary[4096];
    FILE *file = NULL;
    wf_status status = WF_OK;
    if (wf_fabric_rank(r->fabric) == 0) status = open_file(path, temporary, sizeof temporary, &file);
    status = wf_fabric_agree(r->fabric, status);
    if (status == WF_OK) status = collect_text(r, text, (int64_t)bytes, file);
    if (file) status = close_file(file, temporary, path, status);
    return wf_fabric_agree(r->fabric, status);
}

wf_status wf_runner_trace_write(wf_runner *r, const char *path) {
    clock_offset clock = {0, 0};
    double base_s = 0;
    char *text = NULL;
    size_t bytes = 0;
    TRY(align(r, &clock));
    TRY(earliest(r, &clock, &base_s));
    TRY(wf_fabric_agree(r->fabric, format(r, base_s + clock.offset_s, &clock, &text, &bytes)));
    const wf_status status = write_merged(r, path, text, bytes);
    free(text);
    return status;
}
