/* Models filled in field by field: the same as those of a config.json, to the plan's text and hash; every
 * illegal value named; every mixture of forms planned and proved, or refused. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/api/objects.h"

static void must(weft_status status) {
    ck_assert_msg(status == WEFT_OK, "%s", weft_last_error());
}

static weft_model_options small(void) {
    weft_model_options o;
    weft_model_options_init(&o);
    o.layers = 2, o.hidden = 96, o.heads = 6, o.vocabulary = 257, o.positions = 64;
    return o;
}

/* ---- filled in, and from a file ------------------------------------------------------------------------------- */

static weft_model *from_text(const char *text) {
    char path[64];
    weft_model *m = NULL;
    snprintf(path, sizeof path, "weft-fill-%ld.json", (long)getpid());
    FILE *const f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
    const weft_status status = weft_model_create(path, &m);
    remove(path);
    must(status);
    return m;
}

static weft_plan *plan_of(const weft_model *m, const char *layout_text, weft_mode mode, int32_t rank) {
    weft_plan_options o;
    weft_layout *layout;
    weft_plan *p = NULL;
    must(weft_layout_parse(layout_text, &layout));
    weft_plan_options_init(&o);
    o.model = m, o.layout = layout, o.batch = 2, o.sequence = 33, o.mode = mode, o.rank = rank;
    const weft_status status = weft_plan_create(NULL, &o, &p);
    weft_layout_destroy(layout);
    must(status);
    return p;
}

static void same_plan(const weft_model *a, const weft_model *b, const char *layout, weft_mode mode, int32_t rank) {
    weft_plan *const p = plan_of(a, layout, mode, rank), *const q = plan_of(b, layout, mode, rank);
    weft_plan_info of_p, of_q;
    char *text_p, *text_q;
    weft_plan_describe(p, &of_p);
    weft_plan_describe(q, &of_q);
    must(weft_plan_explain(p, &text_p));
    must(weft_plan_explain(q, &text_q));
    ck_assert_uint_eq(of_p.hash, of_q.hash);
    ck_assert_str_eq(text_p, text_q);
    weft_text_free(text_p);
    weft_text_free(text_q);
    weft_plan_destroy(p);
    weft_plan_destroy(q);
}

static void same_table(const wf_model *a, const wf_model *b) {
    wf_parameter_info of_a[WF_TENSORS], of_b[WF_TENSORS];
    wf_model_parameters(a, of_a);
    wf_model_parameters(b, of_b);
    for (int t = 0; t < WF_TENSORS; t++) {
        ck_assert_int_eq(of_a[t].rows, of_b[t].rows);
        ck_assert_int_eq(of_a[t].columns, of_b[t].columns);
    }
}

/* Every field of the value: a plan does not tell theta or init_std. */
static void same_model(const wf_model *a, const wf_model *b) {
#define SAME(field) ck_assert_msg(a->field == b->field, #field " is %g, not %g", (double)a->field, (double)b->field)
    SAME(layers), SAME(hidden), SAME(heads), SAME(kv_heads), SAME(head_size), SAME(features), SAME(vocabulary), SAME(positions);
    SAME(types), SAME(family), SAME(norm), SAME(position_form), SAME(head_form), SAME(activation), SAME(biases), SAME(gated);
    SAME(post_norm), SAME(bidirectional), SAME(embedding_norm), SAME(tied_head), SAME(norm_epsilon), SAME(init_std);
    SAME(dropout_embedding), SAME(dropout_attention), SAME(dropout_residual), SAME(rope_theta), SAME(rope_factor);
    SAME(rope_low_frequency), SAME(rope_high_frequency), SAME(rope_original_positions), SAME(window);
#undef SAME
}

static void expect_same(const weft_model_options *o, const char *config) {
    weft_model *filled, *const read = from_text(config);
    must(weft_model_fill(o, &filled));
    same_model(&filled->model, &read->model);
    same_table(&filled->model, &read->model);
    const bool head = filled->model.head_form != WF_HEAD_NONE;
    for (int32_t rank = 0; rank < 3; rank++) same_plan(filled, read, "tp3.sp", head ? WEFT_TRAIN : WEFT_HIDDEN, rank);
    same_plan(filled, read, "", WEFT_BLOCKS, 0);
    weft_model_destroy(filled);
    weft_model_destroy(read);
}

START_TEST(gpt2_as_from_a_file) {
    weft_model_options o = small();
    expect_same(&o, "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 96, \"n_head\": 6, \"n_positions\": 64, \"vocab_size\": 257, "
                    "\"embd_pdrop\": 0, \"attn_pdrop\": 0, \"resid_pdrop\": 0}");
    o.features = 250, o.activation = "relu", o.tied_head = false, o.norm_epsilon = 1e-6, o.init_std = 0.01;
    o.dropout_embedding = 0.1, o.dropout_attention = 0.25, o.dropout_residual = 0.5;
    expect_same(&o, "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 96, \"n_head\": 6, \"n_positions\": 64, \"vocab_size\": 257, "
                    "\"n_inner\": 250, \"activation_function\": \"relu\", \"tie_word_embeddings\": false, \"layer_norm_epsilon\": 1e-6, "
                    "\"initializer_range\": 0.01, \"embd_pdrop\": 0.1, \"attn_pdrop\": 0.25, \"resid_pdrop\": 0.5}");
}
END_TEST

START_TEST(defaults_are_the_preset) {
    weft_model_options o;
    weft_model *filled, *preset;
    weft_model_options_init(&o);
    o.dropout_embedding = o.dropout_attention = o.dropout_residual = 0.1;
    must(weft_model_fill(&o, &filled));
    must(weft_model_create("gpt2", &preset));
    same_model(&filled->model, &preset->model);
    weft_model_destroy(filled);
    weft_model_destroy(preset);
}
END_TEST

#define SIZES \
    "\"num_hidden_layers\": 2, \"hidden_size\": 96, \"num_attention_heads\": 6, \"intermediate_size\": 250, " \
    "\"max_position_embeddings\": 64, \"vocab_size\": 257"

START_TEST(llama_as_from_a_file) {
    weft_model_options o = small();
    o.family = "llama", o.norm = "rmsnorm", o.position_form = "rope", o.activation = "silu", o.gated = true;
    o.biases = 0, o.tied_head = false, o.features = 250, o.norm_epsilon = 1e-6;
    expect_same(&o, "{\"model_type\": \"llama\", " SIZES "}");
    o.kv_heads = 2, o.head_size = 8, o.biases = WEFT_BIASES_ALL, o.rope_theta = 5e5, o.rope_factor = 8, o.dropout_attention = 0.25;
    o.rope_low_frequency = 1, o.rope_high_frequency = 4, o.rope_original_positions = 8192, o.tied_head = true;
    expect_same(&o, "{\"model_type\": \"llama\", " SIZES ", \"num_key_value_heads\": 2, \"head_dim\": 8, \"attention_bias\": true, "
                    "\"mlp_bias\": true, \"tie_word_embeddings\": true, \"attention_dropout\": 0.25, \"rope_parameters\": {\"rope_type\": "
                    "\"llama3\", \"rope_theta\": 5e5, \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                    "\"original_max_position_embeddings\": 8192}}");
}
END_TEST

START_TEST(qwen2_as_from_a_file) {
    weft_model_options o = small();
    o.family = "llama", o.norm = "rmsnorm", o.position_form = "rope", o.activation = "silu", o.gated = true, o.head_form = "none";
    o.biases = WEFT_BIAS_QKV, o.tied_head = false, o.features = 250, o.norm_epsilon = 1e-6, o.kv_heads = 1, o.rope_factor = 2.5;
    expect_same(&o, "{\"model_type\": \"qwen2\", " SIZES ", \"num_key_value_heads\": 1, \"architectures\": [\"Qwen2Model\"], "
                    "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}}");
}
END_TEST

START_TEST(windows_as_from_a_file) {
    weft_model_options o = small();
    weft_model_info info;
    weft_model *m;
    o.family = "llama", o.norm = "rmsnorm", o.position_form = "rope", o.activation = "silu", o.gated = true;
    o.biases = 0, o.tied_head = false, o.features = 250, o.norm_epsilon = 1e-6, o.kv_heads = 3, o.window = 7;
    expect_same(&o, "{\"model_type\": \"mistral\", " SIZES ", \"num_key_value_heads\": 3, \"sliding_window\": 7}");
    must(weft_model_fill(&o, &m));
    weft_model_describe(m, &info);
    weft_model_destroy(m);
    ck_assert_int_eq(info.window, 7);
    o.biases = WEFT_BIAS_QKV;
    expect_same(&o, "{\"model_type\": \"qwen2\", " SIZES ", \"num_key_value_heads\": 3, \"use_sliding_window\": true, "
                    "\"sliding_window\": 7, \"max_window_layers\": 0}");
    o.window = 64; /* hides none of 64 positions */
    expect_same(&o, "{\"model_type\": \"qwen2\", " SIZES ", \"num_key_value_heads\": 3}");
}
END_TEST

START_TEST(bert_as_from_a_file) {
    weft_model_options o = small();
    o.family = "bert", o.activation = "gelu", o.head_form = "transform", o.norm_epsilon = 1e-12, o.types = 2, o.features = 250;
    o.post_norm = o.bidirectional = o.embedding_norm = true;
    o.dropout_embedding = o.dropout_attention = o.dropout_residual = 0.1;
    expect_same(&o, "{\"model_type\": \"bert\", " SIZES "}");
    o.head_form = "none", o.types = 1;
    expect_same(&o, "{\"model_type\": \"bert\", " SIZES ", \"architectures\": [\"BertModel\"], \"type_vocab_size\": 1}");
}
END_TEST

/* ---- what is refused -------------------------------------------------------------------------------------------- */

static void refused(const weft_model_options *o, const char *said) {
    weft_model *m = NULL;
    const weft_status got = weft_model_fill(o, &m);
    ck_assert_msg(got == WEFT_ERR_ARGUMENT, "status %d, though it should say \"%s\"", (int)got, said);
    ck_assert_msg(strstr(weft_last_error(), said) != NULL, "\"%s\" does not say \"%s\"", weft_last_error(), said);
    ck_assert_ptr_null(m);
}

#define REFUSED(said, ...) \
    do { \
        weft_model_options o = small(); \
        __VA_ARGS__; \
        refused(&o, said); \
    } while (0)
#define ROPE o.position_form = "rope"

START_TEST(illegal_values_are_named) {
    refused(NULL, "no model options");
    REFUSED("field layers is 0", o.layers = 0);
    REFUSED("field layers is -1", o.layers = -1);
    REFUSED("field hidden is 16777217", o.hidden = (1 << 24) + 1);
    REFUSED("field hidden is 0", o.hidden = 0);
    REFUSED("field hidden is 95, not a multiple of heads, 6", o.hidden = 95);
    REFUSED("field heads is 0", o.heads = 0);
    REFUSED("field heads is 6, not a multiple of kv_heads, 4", o.kv_heads = 4);
    REFUSED("field kv_heads is -6", o.kv_heads = -6);
    REFUSED("field head_size is -1", o.head_size = -1);
    REFUSED("field head_size is 7", o.head_size = 7, ROPE);
    REFUSED("field features is -4", o.features = -4);
    REFUSED("field vocabulary is 0", o.vocabulary = 0);
    REFUSED("field positions is -64", o.positions = -64);
    REFUSED("field types is -2", o.types = -2);
    REFUSED("field window is -1, not between 0 and 2^24", o.window = -1);
    REFUSED("field window is 16777217", o.window = (1 << 24) + 1);
    REFUSED("field family is \"t5\", not gpt2, llama or bert", o.family = "t5");
    REFUSED("field activation is \"mish\", not gelu_tanh, gelu, relu or silu", o.activation = "mish");
    REFUSED("field activation is \"none\"", o.activation = "none");
    REFUSED("field norm is \"\", not layernorm or rmsnorm", o.norm = "");
    REFUSED("field position_form is \"alibi\", not learned, rope or none", o.position_form = "alibi");
    REFUSED("field head_form is \"two\", not linear, transform or none", o.head_form = "two");
    REFUSED("field biases is 0x9", o.biases = 9);
    REFUSED("field norm_epsilon is -1e-05", o.norm_epsilon = -1e-5);
    REFUSED("field norm_epsilon is nan", o.norm_epsilon = NAN);
    REFUSED("field norm_epsilon is 1,", o.norm_epsilon = 1);
    REFUSED("field init_std is inf", o.init_std = INFINITY);
    REFUSED("field init_std is -0.02", o.init_std = -0.02);
    REFUSED("field dropout_embedding is 1", o.dropout_embedding = 1);
    REFUSED("field dropout_attention is -0.1", o.dropout_attention = -0.1);
    REFUSED("field dropout_residual is nan", o.dropout_residual = NAN);
    REFUSED("field rope_theta is 0.5", ROPE, o.rope_theta = 0.5);
    REFUSED("field rope_factor is 0.5", ROPE, o.rope_factor = 0.5);
    REFUSED("field rope_factor is 0, though", ROPE, o.rope_low_frequency = 1, o.rope_high_frequency = 4);
    REFUSED("field rope_low_frequency is 0", ROPE, o.rope_factor = 8, o.rope_high_frequency = 4);
    REFUSED("field rope_high_frequency is 0", ROPE, o.rope_factor = 8, o.rope_low_frequency = 1);
    REFUSED("field rope_high_frequency is 1, not above", ROPE, o.rope_factor = 8, o.rope_low_frequency = 2, o.rope_high_frequency = 1);
    REFUSED("field rope_original_positions is 0", ROPE, o.rope_factor = 8, o.rope_low_frequency = 1, o.rope_high_frequency = 4);
    REFUSED("field rope_theta is 10000, but position_form", o.rope_theta = 1e4);
    REFUSED("field rope_factor is 2, but position_form", o.rope_factor = 2);
    REFUSED("field rope_original_positions is 8, but position_form", o.position_form = "none", o.rope_original_positions = 8);
    REFUSED("parameters, more than 2^50", o.layers = o.hidden = o.features = 1 << 24, o.head_size = 16);
}
END_TEST

/* ---- mixtures ------------------------------------------------------------------------------------------------------ */

/* No form excludes another: all that fill takes can be planned, and the proof over all ranks holds. */
START_TEST(mixtures_of_forms_are_planned) {
    static const char *const norms[] = {"layernorm", "rmsnorm"}, *const positions[] = {"learned", "rope", "none"};
    static const char *const heads[] = {"linear", "transform", "none"};
    static const uint32_t biases[] = {0, WEFT_BIAS_QKV, WEFT_BIAS_MLP | WEFT_BIAS_PROJ, WEFT_BIASES_ALL};
    for (int i = 0; i < 2 * 3 * 3 * 4 * 16; i++) {
        weft_model_options o = small();
        weft_model *m;
        o.norm = norms[i % 2], o.position_form = positions[i / 2 % 3], o.head_form = heads[i / 6 % 3], o.biases = biases[i / 18 % 4];
        o.gated = i / 72 & 1, o.post_norm = i / 72 & 2, o.bidirectional = i / 72 & 4, o.embedding_norm = i / 72 & 8;
        o.tied_head = i % 5 < 3, o.types = i % 7 < 3 ? 2 : 0, o.kv_heads = i % 11 < 5 ? 2 : 6, o.window = i % 13 < 6 ? 9 : 0;
        must(weft_model_fill(&o, &m));
        weft_plan *const p = plan_of(m, "tp2.sp", i / 6 % 3 == 2 ? WEFT_HIDDEN : WEFT_TRAIN, 1);
        const weft_status status = weft_plan_check(p);
        ck_assert_msg(status == WEFT_OK, "mixture %d: %s", i, weft_last_error());
        weft_plan_destroy(p);
        weft_model_destroy(m);
    }
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("model_fill");
    TCase *const c = tcase_create("fill");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, gpt2_as_from_a_file);
    tcase_add_test(c, defaults_are_the_preset);
    tcase_add_test(c, llama_as_from_a_file);
    tcase_add_test(c, qwen2_as_from_a_file);
    tcase_add_test(c, windows_as_from_a_file);
    tcase_add_test(c, bert_as_from_a_file);
    tcase_add_test(c, illegal_values_are_named);
    tcase_add_test(c, mixtures_of_forms_are_planned);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
