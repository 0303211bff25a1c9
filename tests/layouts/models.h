/* models.h: the models that the tests of layouts share, one per family and form: small ones, whose
 * schedules can be read, and uneven ones, in which nothing divides among 4, 8 or 11 ranks. */
#ifndef WF_TESTS_LAYOUTS_MODELS_H
#define WF_TESTS_LAYOUTS_MODELS_H

#include "layouts/model.h"

/* MISTRAL: a window that is shorter than every sequence. MIXED: what no family has together: norms after the
 * sums, RMSNorm, rotary positions, a gate, one kv head, every bias, types, a transform, a window both ways. */
typedef enum test_form { TEST_GPT2, TEST_LLAMA, TEST_BERT, TEST_MIXED, TEST_MISTRAL, TEST_FORMS } test_form;
static const char *const test_form_names[] = {"gpt2", "llama", "bert", "mixed", "mistral"};

static inline wf_model with_form(wf_model m, test_form form) {
    if (form == TEST_LLAMA || form == TEST_MISTRAL || form == TEST_MIXED) {
        m.family = WF_FAMILY_LLAMA;
        m.norm = WF_RMSNORM, m.position_form = WF_POSITIONS_ROPE, m.rope_theta = 100;
        m.gated = true, m.activation = WF_ACT_SILU, m.biases = 0, m.tied_head = false;
        m.heads = 6, m.kv_heads = 2;
    }
    if (form == TEST_BERT || form == TEST_MIXED) {
        m.post_norm = m.bidirectional = m.embedding_norm = true;
        m.types = 2, m.head_form = WF_HEAD_TRANSFORM, m.biases = WF_BIASES_ALL;
    }
    if (form == TEST_MISTRAL || form == TEST_MIXED) m.window = m.positions / 3;
    if (form == TEST_BERT) m.family = WF_FAMILY_BERT, m.activation = WF_ACT_GELU;
    if (form == TEST_MIXED) {
        m.kv_heads = 1, m.rope_factor = 4, m.rope_original_positions = 32;
        m.rope_low_frequency = 1, m.rope_high_frequency = 3;
    }
    return m;
}

static inline wf_model small_model(test_form form) {
    return with_form((wf_model){.layers = 2,
                                .hidden = 12,
                                .heads = 3,
                                .kv_heads = 3,
                                .head_size = 4,
                                .features = 10,
                                .vocabulary = 7,
                                .positions = 6,
                                .activation = WF_ACT_GELU_TANH,
                                .biases = WF_BIASES_ALL,
                                .norm_epsilon = 1e-5,
                                .init_std = 0.02,
                                .dropout_embedding = 0.1,
                                .dropout_attention = 0.1,
                                .dropout_residual = 0.1,
                                .tied_head = true},
                     form);
}

enum { UNEVEN_LAYERS = 2, UNEVEN_HIDDEN = 36, UNEVEN_HEADS = 6, UNEVEN_HEAD_SIZE = 6,
       UNEVEN_FEATURES = 94, UNEVEN_VOCABULARY = 97, UNEVEN_POSITIONS = 64 };

static inline wf_model uneven_model(test_form form) {
    wf_model m = small_model(TEST_GPT2);
    m.layers = UNEVEN_LAYERS, m.hidden = UNEVEN_HIDDEN, m.features = UNEVEN_FEATURES;
    m.heads = m.kv_heads = UNEVEN_HEADS, m.head_size = UNEVEN_HEAD_SIZE;
    m.vocabulary = UNEVEN_VOCABULARY, m.positions = UNEVEN_POSITIONS;
    return with_form(m, form);
}

#endif
