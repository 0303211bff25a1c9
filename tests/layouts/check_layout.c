/* check_layout.c: a layout's text round-trips, errors point at the place, the mesh counts tp first.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "layouts/layout.h"

static const struct {
    const char *text, *canonical;
} good[] = {
    {"", "tp1"},
    {"tp1", "tp1"},
    {"tp4", "tp4"},
    {"sp.tp2", "tp2.sp"},
    {"dp2.cp2ring.sp.tp4", "tp4.sp.cp2ring.dp2"},
    {"cp2ulysses", "cp2ulysses"},
    {"cp2gather", "cp2gather"},
    {"cp8usp2", "cp8usp2"},
    {"cp1ring", "tp1"},
    {"zero3.dp8", "dp8.zero3"},
    {"mb16.gpipe.pp4", "pp4.gpipe.mb16"},
    {"1f1b.pp4.vp2", "pp4.vp2"},
    {"pp2.pipedream", "pp2.pipedream"},
    {"ep4.recompute-full", "ep4.recompute-full"},
    {"recompute-pointwise.recompute-attention.tp2", "tp2.recompute-attention.recompute-pointwise"},
    {"recompute-attention.chunks4.offload-activations",
     "recompute-attention.chunks4.offload-activations"},
    {"loss-chunks8.sp.chunks2.tp2", "tp2.sp.chunks2.loss-chunks8"},
    {"loss-chunks1", "loss-chunks1"},
    {"tp-shares3-1.sp.tp2", "tp2.tp-shares3-1.sp"},
    {"cp2ring.cp-shares1-999.tp3.tp-shares5-5-5", "tp3.cp2ring.cp-shares1-999"},
    {"cp2ulysses.cp-shares2-1", "cp2ulysses.cp-shares2-1"},
    {"cp-shares.tp2.tp-shares.cp3ring", "tp2.tp-shares.cp3ring.cp-shares"},
    {"tp2.sp.cp-shares", "tp2.sp"}, /* one rank shares with nobody */
};

START_TEST(text_round_trips) {
    wf_layout layout, again;
    char text[256];
    ck_assert_msg(wf_layout_parse(good[_i].text, &layout) == WF_OK, "%s", wf_last_error());
    wf_layout_print(&layout, text, sizeof text);
    ck_assert_str_eq(text, good[_i].canonical);
    ck_assert_int_eq(wf_layout_parse(text, &again), WF_OK);
    wf_layout_print(&again, text, sizeof text);
    ck_assert_str_eq(text, good[_i].canonical);
}
END_TEST

static const struct {
    const char *text, *term;
    int position;
} bad[] = {
    {"tp2.spp", "\"spp\"", 5},
    {"tp", "\"tp\"", 1},
    {"tp0", "\"tp0\"", 1},
    {"tp2.tp4", "\"tp4\"", 5},
    {"tp2..sp", "\"\"", 5},
    {"tp2.", "\"\"", 5},
    {"tp2x", "\"tp2x\"", 1},
    {"cp2", "\"cp2\"", 1},
    {"tp2.cp2rin", "\"cp2rin\"", 5},
    {"cp4usp3", "\"cp4usp3\"", 1},
    {"dp2.zero4", "\"zero4\"", 5},
    {"pp2.gpipe.1f1b", "\"1f1b\"", 11},
    {"tp99999999999999999999", "\"tp99999999999999999999\"", 1},
    {"tp-1", "\"tp-1\"", 1},
    {"recompute", "\"recompute\"", 1},
    {"tp2.tp-shares-", "\"tp-shares-\"", 5},
    {"tp2.tp-shares.tp-shares3-1", "\"tp-shares3-1\"", 15},
    {"tp2.tp-shares3-1.tp-shares", "\"tp-shares\"", 18},
    {"tp2.tp-shares3-", "\"tp-shares3-\"", 5},
    {"tp2.tp-shares3-0", "\"tp-shares3-0\"", 5},
    {"tp2.tp-shares1000-1", "\"tp-shares1000-1\"", 5},
    {"tp2.tp-shares3x1", "\"tp-shares3x1\"", 5},
    {"tp2.tp-shares3-1.tp-shares1-3", "\"tp-shares1-3\"", 18},
    {"tp17.tp-shares1-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1-2", "\"tp-shares1-", 6},
    {"tp2.loss-chunks0", "\"loss-chunks0\"", 5},
    {"sp2", "\"sp2\"", 1},
    {" tp2", "\" tp2\"", 1},
};

START_TEST(error_points_at_the_place) {
    wf_layout layout = {.zero = 77};
    char place[32];
    snprintf(place, sizeof place, "position %d ", bad[_i].position);
    ck_assert_int_eq(wf_layout_parse(bad[_i].text, &layout), WF_ERR_ARGUMENT);
    ck_assert_msg(strstr(wf_last_error(), bad[_i].term), "%s", wf_last_error());
    ck_assert_msg(strstr(wf_last_error(), place), "%s", wf_last_error());
    ck_assert_int_eq(layout.zero, 77); /* outputs are written on success only */
}
END_TEST

START_TEST(terms_that_need_each_other) {
    wf_layout layout;
    ck_assert_int_eq(wf_layout_parse("gpipe", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("vp2", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("tp16777216.dp2", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("tp3.tp-shares2-1", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("tp2.cp-shares2-1", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("cp4usp2.cp-shares2-1-1-1", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("cp4usp2.cp-shares", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("tp17.tp-shares", &layout), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_layout_parse("tp16.tp-shares", &layout), WF_OK);
}
END_TEST

START_TEST(mesh_counts_tp_fastest) {
    wf_layout layout;
    int32_t at[WF_AXES], members[3];
    ck_assert_int_eq(wf_layout_parse("tp2.cp2ring.ep3.dp2.pp2", &layout), WF_OK);
    ck_assert_int_eq(wf_layout_ranks(&layout), 48);
    wf_mesh_coordinates(&layout, 1 + 2 * (1 + 2 * (2 + 3 * (1 + 2 * 1))), at);
    const int32_t expected[WF_AXES] = {1, 1, 2, 1, 1};
    for (int axis = 0; axis < WF_AXES; axis++) ck_assert_int_eq(at[axis], expected[axis]);
    ck_assert_int_eq(wf_mesh_group(&layout, 5, WF_AXIS_EP, members), 1);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(members[i], 1 + 4 * i);
}
END_TEST

START_TEST(shards_are_balanced_and_cover) {
    for (int64_t extent = 0; extent < 20; extent++)
        for (int parts = 1; parts < 9; parts++) {
            int64_t next = 0;
            for (int i = 0; i < parts; i++) {
                const wf_range range = wf_shard(extent, parts, i);
                ck_assert_int_eq(range.first, next);
                ck_assert_int_ge(range.count, extent / parts);
                ck_assert_int_le(range.count, extent / parts + 1);
                next += range.count;
            }
            ck_assert_int_eq(next, extent);
        }
}
END_TEST

/* Measured speeds become percent of the fastest; who has one place along an axis goes at the pace of the slowest. */
START_TEST(speeds_become_shares) {
    const struct {
        const char *text, *expected;
        double rate[6];
    } cases[] = {{"cp2ring.cp-shares", "cp2ring.cp-shares100-50", {8, 4}},
                 {"cp2ring.cp-shares", "cp2ring", {1e9, 0.951e9}},
                 {"cp2ring.cp-shares", "cp2ring.cp-shares94-100", {0.94, 1}},
                 {"tp3.tp-shares.sp", "tp3.tp-shares1-100-33.sp", {1e-6, 3, 1}},
                 {"tp2.cp3gather.cp-shares", "tp2.cp3gather.cp-shares20-100-40", {1, 9, 5, 6, 7, 2}},
                 {"tp2.tp-shares.cp3ring", "tp2.tp-shares50-100.cp3ring", {1, 2, 5, 6, 7, 2}},
                 {"tp2.tp-shares.cp2ring.cp-shares", "tp2.tp-shares50-100.cp2ring.cp-shares50-100", {1, 3, 2, 2}},
                 {"tp2.tp-shares3-1.cp2ring.cp-shares", "tp2.tp-shares3-1.cp2ring.cp-shares25-100", {9, 1, 4, 4}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wf_layout layout, equal;
        char text[WF_LAYOUT_BYTES];
        ck_assert_msg(wf_layout_parse(cases[i].text, &layout) == WF_OK, "%s", wf_last_error());
        ck_assert(wf_layout_measures(&layout));
        equal = layout;
        wf_layout_in_proportion(&equal, NULL);
        ck_assert(!wf_layout_measures(&equal));
        for (int axis = WF_AXIS_TP; axis <= WF_AXIS_CP; axis++) /* until then, and where nobody measures, all get the same */
            for (int32_t r = 0; r < layout.size[axis] && layout.shares[axis].measured; r++) {
                ck_assert_int_eq(wf_layout_shard(&layout, (wf_axis)axis, 60, r).count, 60 / layout.size[axis]);
                ck_assert_int_eq(wf_layout_shard(&equal, (wf_axis)axis, 60, r).count, 60 / layout.size[axis]);
            }
        wf_layout_in_proportion(&layout, cases[i].rate);
        ck_assert(!wf_layout_measures(&layout));
        wf_layout_print(&layout, text, sizeof text);
        ck_assert_str_eq(text, cases[i].expected);
    }
}
END_TEST

/* In proportion, to a unit; all of it; and the longest text has room. */
START_TEST(shares_are_in_proportion) {
    wf_layout layout;
    char text[WF_LAYOUT_BYTES];
    ck_assert_int_eq(wf_layout_parse("tp3.tp-shares1-5-2", &layout), WF_OK);
    for (int64_t extent = 0; extent < 99; extent++) {
        const double of[] = {1 / 8.0, 5 / 8.0, 2 / 8.0};
        int64_t next = 0;
        for (int i = 0; i < 3; i++) {
            const wf_range range = wf_layout_shard(&layout, WF_AXIS_TP, extent, i);
            ck_assert_int_eq(range.first, next);
            ck_assert(range.count > (double)extent * of[i] - 1 && range.count < (double)extent * of[i] + 1);
            next += range.count;
        }
        ck_assert_int_eq(next, extent);
    }
    layout = (wf_layout){.size = {16, 16, 1048576, 1048577, 1048577}, .sp = true, .cp_form = WF_CP_ULYSSES, .zero = 3, .pipeline = WF_PIPEDREAM,
                         .virtual_stages = 1048577, .microbatches = 1048577, .chunks = 1048577, .loss_chunks = 1048577,
                         .recompute_attention = true, .recompute_pointwise = true, .offload_activations = true};
    for (int axis = 0; axis < 2; axis++) {
        layout.shares[axis].count = 16;
        for (int i = 0; i < 16; i++) layout.shares[axis].of[i] = 999;
    }
    wf_layout_print(&layout, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "offload-activations"));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("layout");
    TCase *tests = tcase_create("layout");
    tcase_add_loop_test(tests, text_round_trips, 0, sizeof good / sizeof *good);
    tcase_add_loop_test(tests, error_points_at_the_place, 0, sizeof bad / sizeof *bad);
    tcase_add_test(tests, terms_that_need_each_other);
    tcase_add_test(tests, mesh_counts_tp_fastest);
    tcase_add_test(tests, shards_are_balanced_and_cover);
    tcase_add_test(tests, speeds_become_shares);
    tcase_add_test(tests, shares_are_in_proportion);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
