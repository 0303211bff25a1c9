/* layout.c: a layout's text, "tp4.sp.cp2ring.dp2": terms joined by dots, in any order.
 *
 * One table row per term; a term is its name, then a number where it takes one, then a form where
 * it has one ("cp2ring"). Printing walks the same table, so what is printed parses back to the same
 * value. The grammar is whole; what lowering does not (yet) do is refused there, not here. */
#include "layouts/layout.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { LARGEST = 1 << 24 }; /* of any number, and of the ranks in all: far beyond any machine */

/* Where a term's value goes, and what it is when the term is left out. */
typedef struct term {
    const char *name;
    size_t offset, bytes;      /* of an int32_t or a bool in wf_layout */
    int32_t value;             /* of a term without number */
    int32_t smallest, largest; /* of a term with one; largest 0: takes no number */
} term;

#define AT(member)    offsetof(wf_layout, member)
#define FIELD(member) AT(member), sizeof((wf_layout *)0)->member
static const term terms[] = {
    {"tp", FIELD(size[WF_AXIS_TP]), 0, 1, LARGEST},
    {"sp", FIELD(sp), 1, 0, 0},
    {"cp", FIELD(size[WF_AXIS_CP]), 0, 1, LARGEST},
    {"ep", FIELD(size[WF_AXIS_EP]), 0, 1, LARGEST},
    {"dp", FIELD(size[WF_AXIS_DP]), 0, 1, LARGEST},
    {"zero", FIELD(zero), 0, 0, 3},
    {"pp", FIELD(size[WF_AXIS_PP]), 0, 1, LARGEST},
    {"vp", FIELD(virtual_stages), 0, 1, LARGEST},
    {"gpipe", FIELD(pipeline), WF_GPIPE, 0, 0},
    {"1f1b", FIELD(pipeline), WF_1F1B, 0, 0},
    {"pipedream", FIELD(pipeline), WF_PIPEDREAM, 0, 0},
    {"mb", FIELD(microbatches), 0, 1, LARGEST},
    {"recompute-full", FIELD(recompute_full), 1, 0, 0},
    {"recompute-attention", FIELD(recompute_attention), 1, 0, 0},
    {"recompute-pointwise", FIELD(recompute_pointwise), 1, 0, 0},
    {"chunks", FIELD(chunks), 0, 1, LARGEST},
    {"loss-chunks", FIELD(loss_chunks), 0, 1, LARGEST},
    {"offload-activations", FIELD(offload_activations), 1, 0, 0},
};
enum { TERMS = sizeof terms / sizeof *terms };
static const char *const cp_forms[] = {"", "ring", "ulysses", "gather", "usp"};

typedef struct parser {
    const char *text, *at; /* at: where the term begins */
    int length;            /* of the term */
    wf_layout *out;
    uint32_t seen; /* bits of terms */
} parser;

static bool is_flag(const term *t) {
    return t->bytes == sizeof(bool);
}

static int32_t get(const wf_layout *layout, const term *t) {
    const char *field = (const char *)layout + t->offset;
    return is_flag(t) ? *(const bool *)field : *(const int32_t *)field;
}

static void set(wf_layout *layout, const term *t, int32_t value) {
    char *field = (char *)layout + t->offset;
    if (is_flag(t))
        *(bool *)field = value != 0;
    else
        *(int32_t *)field = value;
}

static wf_layout defaults(void) {
    wf_layout layout = {.virtual_stages = 1, .microbatches = 1, .chunks = 1};
    for (int axis = 0; axis < WF_AXES; axis++) layout.size[axis] = 1;
    return layout;
}

static wf_status refuse(const parser *p, const char *why) {
    return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\": \"%.*s\" at position %d %s", p->text, p->length,
                   p->at, (int)(p->at - p->text) + 1, why);
}

/* Digits at *at, moved past them; -1 when there are none or the number is too large. */
static int64_t number(const char **at, const char *end) {
    int64_t value = -1;
    for (; *at < end && isdigit((unsigned char)**at); ++*at) {
        value = (value < 0 ? 0 : value) * 10 + (**at - '0');
        if (value > LARGEST) return -1;
    }
    return value;
}

/* What follows the number of cp: a form, and the ulysses ranks of usp. */
static wf_status parse_cp_form(parser *p, const char *at, const char *end) {
    for (int form = WF_CP_RING; form <= WF_CP_USP; form++) {
        const size_t length = strlen(cp_forms[form]);
        if ((size_t)(end - at) < length || strncmp(at, cp_forms[form], length) != 0) continue;
        at += length;
        p->out->cp_form = form;
        if (form == WF_CP_USP) {
            p->out->usp = (int32_t)number(&at, end);
            if (p->out->usp < 1 || p->out->size[WF_AXIS_CP] % p->out->usp)
                return refuse(p, "needs the ulysses ranks of usp, a divisor of cp, as in cp8usp2");
        }
        if (at != end) break;
        return WF_OK;
    }
    return refuse(p, "needs one of the forms ring, ulysses, gather, usp, as in cp2ring");
}

static wf_status parse_number(parser *p, const term *t, const char *at, const char *end) {
    const int64_t value = number(&at, end);
    if (value < t->smallest || value > t->largest) {
        char why[80];
        snprintf(why, sizeof why, "needs a number from %d to %d after \"%s\"", t->smallest,
                 t->largest, t->name);
        return refuse(p, why);
    }
    set(p->out, t, (int32_t)value);
    if (t->offset == AT(size[WF_AXIS_CP]) && (value > 1 || at != end))
        return parse_cp_form(p, at, end);
    return at == end ? WF_OK : refuse(p, "has something after its number");
}

/* tp-shares and cp-shares: numbers joined by '-'; or none: they are to be measured. */
static const char *const share_names[] = {[WF_AXIS_TP] = "tp-shares", [WF_AXIS_CP] = "cp-shares"};

static wf_status parse_shares(parser *p, int axis) {
    static const char wanted[] = "needs at most 16 numbers from 1 to 999, joined by '-', as in tp-shares2-1, or none: as measured";
    wf_shares *const shares = &p->out->shares[axis];
    const char *at = p->at + strlen(share_names[axis]), *const end = p->at + p->length;
    if (shares->count || shares->measured) return refuse(p, "contradicts or repeats the shares before it");
    shares->measured = at == end;
    if (shares->measured) return WF_OK;
    for (;; at++) {
        const int64_t share = number(&at, end);
        if (share < 1 || share > WF_LARGEST_SHARE || shares->count == WF_MOST_SHARES)
            return refuse(p, wanted);
        shares->of[shares->count++] = (int32_t)share;
        if (at == end) return WF_OK;
        if (*at != '-') return refuse(p, wanted);
    }
}

static bool has_shares(const parser *p, int axis) {
    const size_t length = strlen(share_names[axis]);
    return (size_t)p->length >= length && strncmp(p->at, share_names[axis], length) == 0;
}

/* The longest name that begins the term, so that recompute-full is not taken for another. */
static const term *find(const parser *p) {
    for (int i = 0; i < TERMS; i++) {
        const int length = (int)strlen(terms[i].name);
        const bool numbered = terms[i].largest > 0;
        if (strncmp(p->at, terms[i].name, (size_t)length) != 0) continue;
        if (numbered ? (p->length == length || isdigit((unsigned char)p->at[length])) &&
                           p->length >= length
                     : p->length == length)
            return &terms[i];
    }
    return NULL;
}

static wf_status no_term(const parser *p) {
    char why[320] = "is no term; terms, N a number, are tp-sharesN-N or tp-shares, cp-sharesN-N or cp-shares,";
    for (int i = 0; i < TERMS; i++) {
        const size_t used = strlen(why);
        snprintf(why + used, sizeof why - used, " %s%s", terms[i].name,
                 terms[i].largest > 0 ? "N" : "");
    }
    return refuse(p, why);
}

static wf_status parse_term(parser *p) {
    const term *t = p->length ? find(p) : NULL;
    for (int axis = WF_AXIS_TP; axis <= WF_AXIS_CP; axis++)
        if (has_shares(p, axis)) return parse_shares(p, axis);
    if (!p->length) return refuse(p, "is an empty term between dots");
    if (!t) return no_term(p);
    for (int i = 0; i < TERMS; i++)
        if ((p->seen >> i & 1) && terms[i].offset == t->offset) {
            char why[80];
            snprintf(why, sizeof why, "contradicts or repeats \"%s\" before it", terms[i].name);
            return refuse(p, why);
        }
    p->seen |= 1u << (t - terms);
    if (t->largest > 0) return parse_number(p, t, p->at + strlen(t->name), p->at + p->length);
    set(p->out, t, t->value);
    return WF_OK;
}

/* Rules that join terms. */
static wf_status check(const char *text, const wf_layout *layout) {
    int64_t ranks = 1;
    for (int axis = 0; axis < WF_AXES; axis++) {
        ranks *= layout->size[axis];
        if (ranks > LARGEST)
            return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\" needs more than %d ranks", text,
                           LARGEST);
    }
    for (int axis = WF_AXIS_TP; axis <= WF_AXIS_CP; axis++) {
        if (layout->shares[axis].count && layout->shares[axis].count != layout->size[axis])
            return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\": %s has %d numbers for %d rank%s", text, share_names[axis],
                           layout->shares[axis].count, layout->size[axis], layout->size[axis] == 1 ? "" : "s");
        if (layout->shares[axis].measured && layout->size[axis] > WF_MOST_SHARES)
            return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\": %s is for %d ranks at most, not %d", text, share_names[axis], WF_MOST_SHARES,
                           layout->size[axis]);
    }
    const wf_shares *const cp = &layout->shares[WF_AXIS_CP];
    if ((cp->count || cp->measured) && layout->cp_form == WF_CP_USP)
        return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\": the ranks of usp share alike; cp-shares is for ring, gather and ulysses", text);
    if (layout->size[WF_AXIS_PP] == 1 && (layout->pipeline || layout->virtual_stages > 1))
        return wf_fail(WF_ERR_ARGUMENT,
                       "layout \"%s\" says how to pipeline, but has no pp of 2 or more", text);
    if (layout->recompute_full && (layout->recompute_attention || layout->recompute_pointwise))
        return wf_fail(WF_ERR_ARGUMENT, "layout \"%s\": recompute-full takes in the others", text);
    return WF_OK;
}

/* Shares that are all the same are none. */
static void drop_equal(wf_shares *shares, int32_t ranks) {
    if (shares->measured && ranks > 1) return;
    for (int32_t i = 1; i < shares->count; i++)
        if (shares->of[i] != shares->of[0]) return;
    *shares = (wf_shares){0};
}

wf_status wf_layout_parse(const char *text, wf_layout *out) {
    wf_layout layout = defaults();
    parser p = {.text = text, .at = text, .out = &layout};
    while (*text) {
        p.length = (int)strcspn(p.at, ".");
        TRY(parse_term(&p));
        if (!p.at[p.length]) break;
        p.at += p.length + 1;
    }
    if (layout.size[WF_AXIS_CP] == 1) layout.cp_form = layout.usp = 0;
    TRY(check(text, &layout));
    if (layout.size[WF_AXIS_PP] > 1 && !layout.pipeline) layout.pipeline = WF_1F1B;
    for (int axis = WF_AXIS_TP; axis <= WF_AXIS_CP; axis++) drop_equal(&layout.shares[axis], layout.size[axis]);
    *out = layout;
    return WF_OK;
}

/* Is this term's value what leaving it out would mean? (1f1b is what pp means by itself.) */
static bool is_default(const wf_layout *layout, const term *t) {
    const wf_layout base = defaults();
    const int32_t value = get(layout, t);
    if (t->largest > 0) return value == get(&base, t);
    return value != t->value || (t->offset == AT(pipeline) && value == WF_1F1B);
}

static size_t print_shares(const wf_layout *layout, int axis, char *out, size_t bytes) {
    const wf_shares *const shares = &layout->shares[axis];
    size_t used = shares->measured ? (size_t)snprintf(out, bytes, ".%s", share_names[axis]) : 0;
    for (int32_t i = 0; i < shares->count; i++)
        used += (size_t)snprintf(out + used, bytes - used, "%s%s%d", i ? "-" : ".", i ? "" : share_names[axis], shares->of[i]);
    return used;
}

void wf_layout_print(const wf_layout *layout, char *out, size_t out_bytes) {
    char text[WF_LAYOUT_BYTES] = "";
    size_t used = 0;
    for (int i = 0; i < TERMS; i++) {
        const term *t = &terms[i];
        if (is_default(layout, t)) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? "." : "", t->name);
        if (t->largest > 0)
            used += (size_t)snprintf(text + used, sizeof text - used, "%d", get(layout, t));
        if (t->offset == AT(size[WF_AXIS_TP])) used += print_shares(layout, WF_AXIS_TP, text + used, sizeof text - used);
        if (t->offset != AT(size[WF_AXIS_CP])) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s", cp_forms[layout->cp_form]);
        if (layout->cp_form == WF_CP_USP)
            used += (size_t)snprintf(text + used, sizeof text - used, "%d", layout->usp);
        used += print_shares(layout, WF_AXIS_CP, text + used, sizeof text - used);
    }
    snprintf(out, out_bytes, "%s", used ? text : "tp1");
}

int32_t wf_layout_ranks(const wf_layout *layout) {
    int32_t ranks = 1;
    for (int axis = 0; axis < WF_AXES; axis++) ranks *= layout->size[axis];
    return ranks;
}
