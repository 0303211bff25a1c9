/* Ranks as threads of one process, and ranks that the caller connects: a whole model's step and a block stack's give
 * what one rank gives; two jobs in one process do not know of each other; failures are told. */
#include <unistd.h>

#include "host/api/objects.h"
#include "host/fabric/internal.h"
#include "host/fabric/watchdog.h"
#include "tests/host/blocks_support.h"

static weft_model *model;
static truth want;

static void open_all(void) {
    fill_tokens();
    model = make_model();
    want = find_truth(model);
}

static void close_all(void) {
    free_truth(&want);
    weft_model_destroy(model);
}

/* ---- drivers that start under several threads at once ------------------------------------------------------------------ */

static void only_open(rank_thread *t) {
    int32_t index;
    /* PoCL must not compile in two threads at once. */
    ((bool *)t->work)[t->rank] = weft_context_ranks(t->context) == 4 && wf_fabric_processes(t->context->fabric, &index) == 0;
}

/* Before anything else in this process has asked for a device. */
START_TEST(threads_may_come_first) {
    bool fine[4] = {false, false, false, false};
    on_threads("tp4", only_open, fine);
    ck_assert(fine[0] && fine[1] && fine[2] && fine[3]);
}
END_TEST

/* ---- shares that are measured ---------------------------------------------------------------------------------------------- */

typedef struct shares {
    bool refused;
    char text[64];
} shares;

static void measured_shares(rank_thread *t) {
    shares *const own = (shares *)t->work + t->rank;
    weft_params *params = NULL;
    weft_layout *asked, *measured = NULL;
    MUST(weft_layout_parse(t->layout, &asked));
    own->refused = weft_params_create(t->context, model, asked, &params) == WEFT_ERR_ARGUMENT &&
                   strstr(weft_last_error(), "still to be measured");
    MUST(weft_layout_measure(t->context, asked, &measured));
    weft_layout_print(measured, own->text, sizeof own->text);
    MUST(weft_params_create(t->context, model, measured, &params));
    weft_params_destroy(params);
    weft_layout_destroy(measured);
    weft_layout_destroy(asked);
}

/* Nothing is created before they are; then all ranks have the same numbers, or none where they are equally fast. */
START_TEST(shares_are_measured_once_for_all) {
    shares of[2] = {{false, ""}, {false, ""}};
    on_threads("cp2ring.cp-shares", measured_shares, of);
    ck_assert(of[0].refused && of[1].refused);
    ck_assert_str_eq(of[0].text, of[1].text);
    const char *const after = of[0].text + strlen("cp2ring");
    ck_assert_msg(strncmp(of[0].text, "cp2ring", strlen("cp2ring")) == 0 && (*after == 0 || strncmp(after, ".cp-shares", 10) == 0), "%s", of[0].text);
    ck_assert_msg(*after == 0 || strstr(after, "100"), "%s", of[0].text);
}
END_TEST

/* ---- a whole model's gradients ------------------------------------------------------------------------------------------ */

typedef struct verdict {
    double worst;
    char transport[256];
} verdict;

static void whole_model(rank_thread *t) {
    verdict *const v = (verdict *)t->work + t->rank;
    weft_params *const params = make_params(t->context, model, t->layout);
    weft_plan *const plan = make_plan(t->context, model, t->layout, WEFT_GRADIENTS, 0);
    weft_result result;
    weft_args a = plain_args();
    const char *where = "";
    char *text = NULL;
    a.tokens = tokens;
    a.targets = targets;
    MUST(weft_plan_load(plan, params));
    for (int i = 0; i < 3; i++) MUST(weft_plan_run(plan, &a, &result));
    tensors got = gather_tensors(params, "grad");
    v->worst = fmax(worst_of_layers(&want.gradients, &got, &where), fabs(result.loss - want.loss) / want.loss);
    MUST(weft_context_describe(t->context, false, &text));
    for (const char *k = "window\0staged\0mpi\0"; *k; k += strlen(k) + 1) {
        int64_t bytes, messages;
        MUST(weft_context_sent(t->context, k, &bytes, &messages));
        if (messages) snprintf(v->transport, sizeof v->transport, "%s", k);
    }
    weft_text_free(text);
    free_tensors(&got);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
}

static void expect_right(const verdict *v, int ranks, const char *layout) {
    for (int r = 0; r < ranks; r++)
        ck_assert_msg(v[r].worst <= 3e-6, "%s, rank %d: off by %.2g over %s", layout, r, v[r].worst, v[r].transport);
}

static const struct {
    const char *layout;
    int ranks;
} layouts[] = {{"mb2", 1}, {"tp2.mb2", 2}, {"tp3.sp.mb2", 3}, {"tp4.sp.mb2", 4}};

START_TEST(threads_are_ranks) {
    verdict v[4] = {{0}};
    on_threads(layouts[_i].layout, whole_model, v);
    expect_right(v, layouts[_i].ranks, layouts[_i].layout);
    if (layouts[_i].ranks > 1) printf("  %s as threads, over %s: within %.1e\n", layouts[_i].layout, v[0].transport, v[0].worst);
}
END_TEST

/* ---- two jobs in one process ------------------------------------------------------------------------------------------------ */

static void *job(void *v) {
    on_threads("tp4.sp.mb2", whole_model, v);
    return NULL;
}

START_TEST(two_jobs_do_not_meet) {
    verdict v[2][4] = {{{0}}};
    pthread_t other;
    ck_assert_int_eq(pthread_create(&other, NULL, job, v[1]), 0);
    job(v[0]);
    pthread_join(other, NULL);
    expect_right(v[0], 4, "first job");
    expect_right(v[1], 4, "second job");
}
END_TEST

/* The sentence of a failure is the thread's own. */
static void *fail_in_thread(void *out) {
    weft_layout *l;
    weft_layout_parse("tp2.nonsense", &l);
    snprintf(out, 256, "%s", weft_last_error());
    return NULL;
}

START_TEST(sentences_are_each_threads_own) {
    weft_model *m;
    char there[256] = "";
    pthread_t thread;
    ck_assert_int_eq(weft_model_create("huge", &m), WEFT_ERR_ARGUMENT);
    pthread_create(&thread, NULL, fail_in_thread, there);
    pthread_join(thread, NULL);
    ck_assert(strstr(weft_last_error(), "huge") && strstr(there, "nonsense"));
}
END_TEST

/* ---- the local bootstrap itself --------------------------------------------------------------------------------------------------- */

static void *boot_of(const wf_bootstrap *b) {
    return b->self;
}

START_TEST(messages_meet_in_order) {
    wf_bootstrap b[2];
    void *s[3], *r[3];
    int out[3] = {10, 20, 30}, in[3] = {0};
    bool done = false;
    ck_assert_int_eq(wf_bootstrap_local(2, b), WF_OK);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(b[0].send(boot_of(&b[0]), 1, i == 2 ? 7 : 5, &out[i], sizeof(int), &s[i]), WF_OK);
    ck_assert_int_eq(b[0].test(boot_of(&b[0]), &s[0], &done), WF_OK);
    ck_assert(!done);
    ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 7, &in[2], sizeof(int), &r[2]), WF_OK);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 5, &in[i], sizeof(int), &r[i]), WF_OK);
    for (int i = 0; i < 3; i++) {
        ck_assert(b[1].test(boot_of(&b[1]), &r[i], &done) == WF_OK && done && !r[i]);
        ck_assert(b[0].test(boot_of(&b[0]), &s[i], &done) == WF_OK && done && !s[i]);
        ck_assert_int_eq(in[i], out[i]);
    }
    /* another length, a request that is given up, a peer that is gone, a rank that is not there */
    ck_assert_int_eq(b[0].send(boot_of(&b[0]), 1, 5, out, 8, &s[0]), WF_OK);
    ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 5, in, 4, &r[0]), WF_OK);
    ck_assert_int_eq(b[1].test(boot_of(&b[1]), &r[0], &done), WF_ERR_MISMATCH);
    ck_assert(b[0].test(boot_of(&b[0]), &s[0], &done) == WF_OK && done);
    ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 5, in, 4, &r[0]), WF_OK);
    ck_assert(b[1].cancel(boot_of(&b[1]), &r[0]) && !r[0]);
    ck_assert_int_eq(b[0].send(boot_of(&b[0]), 1, 5, &out[1], 4, &s[0]), WF_OK);
    ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 5, &in[0], 4, &r[0]), WF_OK);
    ck_assert(b[1].test(boot_of(&b[1]), &r[0], &done) == WF_OK && done && in[0] == 20);
    ck_assert(b[0].test(boot_of(&b[0]), &s[0], &done) == WF_OK && done);
    ck_assert_int_eq(b[1].send(boot_of(&b[1]), 2, 5, in, 4, &s[0]), WF_ERR_ARGUMENT);
    ck_assert_int_eq(b[1].receive(boot_of(&b[1]), 0, 5, in, 4, &r[0]), WF_OK);
    b[0].destroy(boot_of(&b[0]));
    ck_assert_int_eq(b[1].test(boot_of(&b[1]), &r[0], &done), WF_ERR_FABRIC);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "rank 0 has left"));
    b[1].cancel(boot_of(&b[1]), &r[0]);
    b[1].destroy(boot_of(&b[1]));
    ck_assert_int_eq(wf_bootstrap_local(0, b), WF_ERR_ARGUMENT);
}
END_TEST

/* A rank that never comes: the others' deadline, and its number. */
static void *lonely(void *bootstrap) {
    weft_context_options o;
    weft_context *c = NULL;
    weft_context_options_init(&o);
    o.timeout_s = 1;
    const weft_status status = weft_context_create(&o, bootstrap, &c);
    if (status != WEFT_ERR_TIMEOUT && status != WEFT_ERR_FABRIC) return NULL;
    return strstr(weft_last_error(), "rank 1") ? bootstrap : NULL;
}

START_TEST(a_rank_that_does_not_come_is_named) {
    weft_bootstrap *b[2];
    MUST(weft_bootstrap_local(2, b));
    ck_assert_ptr_nonnull(lonely(b[0]));
    weft_bootstrap_destroy(b[0]);
    weft_bootstrap_destroy(b[1]);
}
END_TEST

/* ---- what comes after its rank has left --------------------------------------------------------------------------------- */

typedef struct slow {
    double start_s, come_s[3]; /* when a rank's bytes come */
    wf_board boards[3];
    int32_t of[4], used; /* requests: whose */
} slow;

static wf_status slow_receive(void *self, int32_t from, int32_t tag, void *data, int64_t bytes, void **request_out) {
    slow *const s = self;
    (void)tag;
    memset(data, from, (size_t)bytes);
    s->of[s->used] = from;
    *request_out = &s->of[s->used++];
    return WF_OK;
}

static wf_status slow_send(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes, void **request_out) {
    (void)self, (void)to, (void)tag, (void)data, (void)bytes;
    *request_out = NULL; /* gone at once */
    return WF_OK;
}

/* A rank leaves a moment before its bytes come. */
static wf_status slow_test(void *self, void **request_inout, bool *done) {
    slow *const s = self;
    const int32_t rank = *(int32_t *)*request_inout;
    const double now_s = wf_board_clock_s() - s->start_s;
    if (now_s > s->come_s[rank] - (rank == 1 ? 0.4 : 0.05)) wf_board_leave(&s->boards[rank]);
    *done = now_s > s->come_s[rank];
    if (*done) *request_inout = NULL;
    return WF_OK;
}

static bool slow_cancel(void *self, void **request_inout) {
    (void)self;
    *request_inout = NULL;
    return true;
}

START_TEST(who_left_earlier_does_not_hasten_who_leaves_later) {
    slow s = {.start_s = wf_board_clock_s(), .come_s = {0, 0.4, 1.4}};
    const wf_board *boards[3] = {&s.boards[0], &s.boards[1], &s.boards[2]};
    const double deadline_s = 30;
    const wf_bootstrap b = {.ranks = 3, .self = &s, .receive = slow_receive, .send = slow_send, .test = slow_test, .cancel = slow_cancel};
    wf_members members = {.count = 3, .boards = boards, .deadline_s = &deadline_s};
    char all[3];
    for (int r = 0; r < 3; r++) wf_board_start(&s.boards[r], r);
    ck_assert_msg(wf_gather(&b, &members, 1, deadline_s, "", 1, all) == WF_OK, "%s", wf_last_error());
    ck_assert(all[0] == 0 && all[1] == 1 && all[2] == 2);
}
END_TEST

/* ---- a watchdog that speaks up while its rank leaves --------------------------------------------------------------------- */

static void note(void *user, const char *sentence) {
    __atomic_store_n((bool *)user, *sentence != 0, __ATOMIC_RELEASE);
}

/* The mirror's memory goes when its rank leaves: what the watchdog's thread writes there must come before that or not at
 * all. ThreadSanitizer judges (make check-threads). */
START_TEST(a_watchdog_writes_to_no_mirror_that_is_gone) {
    static wf_board mine;
    bool said = false;
    wf_watchdog *w = NULL;
    wf_board_start(&mine, 0);
    wf_board_set(&mine, &(wf_activity){.peer = WF_NOBODY, .layer = -1, .microbatch = -1, .limit_s = 1e-3});
    ck_assert_int_eq(wf_watchdog_start(&mine, note, &said, &w), WF_OK);
    const double start_s = wf_board_clock_s();
    while (!__atomic_load_n(&said, __ATOMIC_ACQUIRE) && wf_board_clock_s() - start_s < 60) {
        wf_board *const mirror = calloc(1, sizeof *mirror);
        ck_assert_ptr_nonnull(mirror);
        wf_watchdog_mirror(w, &mine, mirror);
        usleep(200);
        wf_watchdog_mirror(w, &mine, NULL);
        free(mirror);
    }
    ck_assert(__atomic_load_n(&said, __ATOMIC_ACQUIRE) && wf_board_reported(&mine));
    wf_watchdog_stop(w);
}
END_TEST

/* ---- callbacks: pipes between threads stand for the caller's network ------------------------------------------------------------------- */

enum { RANKS = 3, MOST_REQUESTS = 512 };

typedef struct message {
    struct message *next;
    int from, to, tag;
    size_t bytes;
    char data[];
} message;

typedef struct his_request {
    bool receives, used;
    int peer, tag;
    long number; /* in the order of posting */
    void *data;
    size_t bytes;
} his_request;

typedef struct his_network {
    pthread_mutex_t mutex;
    message *first;
} his_network;

typedef struct his_rank {
    his_network *net;
    int rank;
    his_request request[MOST_REQUESTS];
    long calls, fail_at, posted;
    unsigned late; /* of a generator: messages are seen late, each at another time */
} his_rank;

static his_request *new_request(his_rank *me) {
    for (int i = 0; i < MOST_REQUESTS; i++)
        if (!me->request[i].used) return &me->request[i];
    give_up("the test's own network", "more requests at once than it has room for");
    return NULL;
}

/* Has every receive of this (peer, tag) that was posted earlier its message? */
static bool is_next(const his_rank *me, const his_request *r) {
    for (int i = 0; i < MOST_REQUESTS; i++) {
        const his_request *const other = &me->request[i];
        if (other->used && other->receives && other->peer == r->peer && other->tag == r->tag && other->number < r->number) return false;
    }
    return true;
}

static int fails(his_rank *me) {
    return ++me->calls == me->fail_at ? 77 : 0;
}

static int his_send(void *user, int32_t to, int32_t tag, const void *data, size_t bytes, void **request_out) {
    his_rank *const me = user;
    if (fails(me)) return 77;
    message *const m = malloc(sizeof *m + bytes), **last;
    *m = (message){.from = me->rank, .to = to, .tag = tag, .bytes = bytes};
    memcpy(m->data, data, bytes);
    pthread_mutex_lock(&me->net->mutex);
    for (last = &me->net->first; *last;) last = &(*last)->next;
    *last = m;
    pthread_mutex_unlock(&me->net->mutex);
    his_request *const r = new_request(me);
    *r = (his_request){.used = true};
    *request_out = r;
    return 0;
}

static int his_receive(void *user, int32_t from, int32_t tag, void *data, size_t bytes, void **request_out) {
    his_rank *const me = user;
    if (fails(me)) return 77;
    his_request *const r = new_request(me);
    *r = (his_request){.used = true, .receives = true, .peer = from, .tag = tag, .number = me->posted++, .data = data, .bytes = bytes};
    *request_out = r;
    return 0;
}

/* The oldest request of a (peer, tag) takes the oldest message, whichever is asked for first. */
static int his_test(void *user, void *request, int *done_out) {
    his_rank *const me = user;
    his_request *const r = request;
    if (fails(me)) return 77;
    *done_out = !r->receives;
    me->late = me->late * 1664525u + 1013904223u;
    pthread_mutex_lock(&me->net->mutex);
    for (message **at = &me->net->first; r->receives && me->late >> 30 && is_next(me, r) && *at; at = &(*at)->next) {
        message *const m = *at;
        if (m->to != me->rank || m->from != r->peer || m->tag != r->tag) continue;
        *at = m->next;
        if (m->bytes != r->bytes) give_up("the test's own network", "a message of another length than is expected");
        memcpy(r->data, m->data, m->bytes);
        free(m);
        *done_out = 1;
        break;
    }
    pthread_mutex_unlock(&me->net->mutex);
    if (*done_out) r->used = false;
    return 0;
}

static int his_cancel(void *user, void *request) {
    ((his_request *)request)->used = false;
    return 0;
}

static weft_bootstrap *connect(his_rank *me, int node_ranks) {
    weft_bootstrap *b;
    const weft_callbacks c = {.user = me, .rank = me->rank, .ranks = RANKS, .node_rank = node_ranks ? me->rank : 0, .node_ranks = node_ranks,
                              .send = his_send, .receive = his_receive, .test = his_test, .cancel = his_cancel};
    MUST(weft_bootstrap_callbacks(&c, &b));
    return b;
}

static void on_his_network(int node_ranks, verdict *v) {
    his_network net = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    his_rank *const ranks = calloc(RANKS, sizeof *ranks);
    rank_thread thread[RANKS];
    pthread_t id[RANKS];
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (his_rank){.net = &net, .rank = r, .late = (unsigned)r};
        thread[r] = (rank_thread){.bootstrap = connect(&ranks[r], node_ranks), .layout = "tp3.sp.mb2", .work = v, .rank = r, .run = whole_model};
        if (pthread_create(&id[r], NULL, thread_main, &thread[r]) != 0) give_up("the test's own network", "no thread for a rank");
    }
    for (int r = 0; r < RANKS; r++) pthread_join(id[r], NULL);
    for (int r = 0; r < RANKS; r++) weft_bootstrap_destroy(thread[r].bootstrap);
    free(ranks);
    while (net.first) {
        message *const next = net.first->next;
        free(net.first);
        net.first = next;
    }
}

START_TEST(his_network_connects_ranks) {
    verdict v[RANKS] = {{0}};
    on_his_network(_i ? RANKS : 0, v);
    expect_right(v, RANKS, "tp3.sp.mb2");
    if (!_i) ck_assert_str_eq(v[0].transport, "mpi"); /* messages: no memory is shared */
    printf("  over the caller's functions, %s: within %.1e\n", v[0].transport, v[0].worst);
}
END_TEST

START_TEST(his_failures_are_quoted) {
    his_network net = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    his_rank *const me = calloc(1, sizeof *me);
    *me = (his_rank){.net = &net, .fail_at = 1};
    weft_bootstrap *const b = connect(me, 0);
    weft_context *c = NULL;
    const weft_status status = weft_context_create(NULL, b, &c);
    ck_assert_msg(status == WEFT_ERR_FABRIC && strstr(weft_last_error(), "returned 77"), "status %d: %s", (int)status, weft_last_error());
    weft_bootstrap_destroy(b);
    const weft_callbacks none = {.ranks = 2};
    weft_bootstrap *no = NULL;
    ck_assert_int_eq(weft_bootstrap_callbacks(&none, &no), WEFT_ERR_ARGUMENT);
    free(me);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("bootstraps");
    TCase *const cold = tcase_create("cold"), *const c = tcase_create("ranks");
    tcase_set_timeout(cold, 120);
    tcase_add_test(cold, threads_may_come_first);
    suite_add_tcase(suite, cold);
    tcase_set_timeout(c, 240);
    tcase_add_unchecked_fixture(c, open_all, close_all);
    tcase_add_test(c, messages_meet_in_order);
    tcase_add_test(c, sentences_are_each_threads_own);
    tcase_add_test(c, a_rank_that_does_not_come_is_named);
    tcase_add_test(c, who_left_earlier_does_not_hasten_who_leaves_later);
    tcase_add_test(c, a_watchdog_writes_to_no_mirror_that_is_gone);
    tcase_add_test(c, shares_are_measured_once_for_all);
    tcase_add_loop_test(c, threads_are_ranks, 0, sizeof layouts / sizeof *layouts);
    tcase_add_test(c, two_jobs_do_not_meet);
    tcase_add_loop_test(c, his_network_connects_ranks, 0, 2);
    tcase_add_test(c, his_failures_are_quoted);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
