/* .safetensors files: what is written is read back; every dtype; one sentence for every damage; and
 * nothing worse than a sentence for files cut at every byte or with bits flipped at random. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/model/safetensors.h"

static char path[64];

static void set_path(void) {
    snprintf(path, sizeof path, "weft-safetensors-%ld", (long)getpid());
    remove(path);
}

static void remove_path(void) {
    remove(path);
}

static void must(wf_status status) {
    ck_assert_msg(status == WF_OK, "%s", wf_last_error());
}

static void write_bytes(const void *data, size_t bytes) {
    FILE *const f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

/* A file of this header and so many bytes of data; the length written is the header's, or `length`.
 */
static size_t build(char *out, uint64_t length, const char *header, const void *data,
                    size_t bytes) {
    const size_t n = strlen(header);
    if (length == UINT64_MAX) length = n;
    for (int i = 0; i < 8; i++) out[i] = (char)(length >> 8 * i);
    memcpy(out + 8, header, n);
    if (data)
        memcpy(out + 8 + n, data, bytes);
    else
        memset(out + 8 + n, 0, bytes);
    return 8 + n + bytes;
}

static void write_file(uint64_t length, const char *header, const void *data, size_t bytes) {
    char *const room = malloc(strlen(header) + bytes + 8);
    write_bytes(room, build(room, length, header, data, bytes));
    free(room);
}

/* ---- what is written is read
 * ---------------------------------------------------------------------------- */

START_TEST(what_is_written_is_read) {
    const wf_tensor_plan plan[] = {{"z.matrix", 3, 5, false},
                                   {"a.vector", 7, 1, true},
                                   {"empty", 0, 4, false},
                                   {"one", 1, 1, false}};
    float data[23], got[15];
    int64_t bytes;
    uint8_t digest[WF_SHA256_BYTES];
    wf_safetensors_writer *w;
    wf_safetensors *s;
    for (int i = 0; i < 23; i++) data[i] = (float)(i * i) - 0.125f * (float)i;
    must(wf_safetensors_create(path, plan, 4, &w));
    must(wf_safetensors_put(w, data, 15));
    must(wf_safetensors_put(w, data + 15, 8)); /* the pieces need not be the tensors */
    must(wf_safetensors_finish(w, &bytes, digest));
    must(wf_safetensors_open(path, &s));
    ck_assert_int_eq(wf_safetensors_count(s), 4);
    ck_assert_str_eq(wf_safetensors_entry(s, 0)->name, "a.vector");
    const wf_tensor_entry *const e = wf_safetensors_find(s, "z.matrix"), *const v =
                                                                             wf_safetensors_find(
                                                                                 s, "a.vector");
    ck_assert(e && v && wf_safetensors_find(s, "empty") && !wf_safetensors_find(s, "z.matri"));
    ck_assert(e->axes == 2 && e->extent[0] == 3 && e->extent[1] == 5 && v->axes == 1 &&
              v->extent[0] == 7);
    ck_assert_int_eq((e->begin) % 8, 0);
    must(wf_safetensors_read(s, e, 0, 15, got));
    ck_assert_int_eq(memcmp(got, data, sizeof got), 0);
    must(wf_safetensors_read(s, v, 2, 4, got));
    ck_assert_int_eq(memcmp(got, data + 17, 4 * sizeof *got), 0);
    ck_assert_int_eq(wf_safetensors_read(s, v, 4, 4, got), WF_ERR_INTERNAL);
    wf_safetensors_close(s);
}
END_TEST

START_TEST(a_file_that_is_there_is_not_overwritten) {
    const wf_tensor_plan plan = {"a", 1, 1, false};
    wf_safetensors_writer *w = NULL;
    write_bytes("mine", 4);
    ck_assert_int_eq(wf_safetensors_create(path, &plan, 1, &w), WF_ERR_FILE);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), path));
    remove(path);
    must(wf_safetensors_create(path, &plan, 1, &w));
    uint8_t digest[WF_SHA256_BYTES];
    int64_t bytes;
    ck_assert_int_eq(wf_safetensors_finish(w, &bytes, digest),
                     WF_ERR_INTERNAL); /* no data were put */
}
END_TEST

/* ---- dtypes
 * ------------------------------------------------------------------------------------------------
 */

/* Every half, against ldexp. */
START_TEST(halves_are_exact) {
    static uint16_t halves[65536];
    static float got[65536];
    wf_safetensors *s;
    for (int i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    write_file(UINT64_MAX,
               "{\"x\":{\"dtype\":\"F16\",\"shape\":[65536],\"data_offsets\":[0,131072]}}", halves,
               sizeof halves);
    must(wf_safetensors_open(path, &s));
    must(wf_safetensors_read(s, wf_safetensors_entry(s, 0), 0, 65536, got));
    for (int i = 0; i < 65536; i++) {
        const int exponent = i >> 10 & 31, fraction = i & 1023;
        const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                            : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                           : ldexp(fraction, -24);
        const double want = i & 0x8000 ? -size : size;
        ck_assert_msg(isnan(want) ? isnan(got[i])
                                  : (double)got[i] == want && !signbit(got[i]) == !(i & 0x8000),
                      "%04x: %g", i, (double)got[i]);
    }
    wf_safetensors_close(s);
}
END_TEST

START_TEST(brain_floats_and_doubles_are_converted) {
    const uint16_t brain[4] = {0x3f80, 0xc049, 0x0001, 0x7f80};
    const double wide[4] = {1.0 + 0x1p-24, 1.0 + 0x1.8p-23, -1e300, 0x1p-140};
    const float want_brain[4] = {1, -3.140625f, 0x1p-133f, INFINITY},
                want_wide[4] = {1, 1 + 0x1p-22f, -INFINITY, 0x1p-140f};
    float got[4];
    char data[40];
    wf_safetensors *s;
    memcpy(data, brain, 8);
    memcpy(data + 8, wide, 32);
    write_file(UINT64_MAX,
               "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
               "\"d\":{\"dtype\":\"F64\",\"shape\":[4],\"data_offsets\":[8,40]}}",
               data, sizeof data);
    must(wf_safetensors_open(path, &s));
    must(wf_safetensors_read(s, wf_safetensors_find(s, "b"), 0, 4, got));
    ck_assert_int_eq(memcmp(got, want_brain, sizeof got), 0);
    must(wf_safetensors_read(s, wf_safetensors_find(s, "d"), 0, 4, got));
    for (int i = 0; i < 4; i++)
        ck_assert_msg(got[i] == want_wide[i], "%d: %a, not %a", i, (double)got[i],
                      (double)want_wide[i]);
    wf_safetensors_close(s);
}
END_TEST

START_TEST(other_dtypes_are_passed_by) {
    static const struct {
        const char *name;
        int bytes;
    } others[] = {{"BOOL", 1},    {"U8", 1},      {"I8", 1},  {"I16", 2}, {"U16", 2},
                  {"I32", 4},     {"U32", 4},     {"I64", 8}, {"U64", 8}, {"F8_E4M3", 1},
                  {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char header[128];
        float got;
        wf_safetensors *s;
        snprintf(header, sizeof header,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}", others[i].name,
                 3 * others[i].bytes);
        write_file(UINT64_MAX, header, NULL, (size_t)(3 * others[i].bytes));
        must(wf_safetensors_open(path, &s));
        ck_assert_int_eq(wf_safetensors_read(s, wf_safetensors_entry(s, 0), 0, 1, &got),
                         WF_ERR_FILE);
        ck_assert_ptr_nonnull(strstr(wf_last_error(), others[i].name));
        wf_safetensors_close(s);
    }
}
END_TEST

/* Old writers did not pad the header: data may begin anywhere. */
START_TEST(data_need_not_be_aligned) {
    const float want[2] = {1.5f, -2.25f};
    float got[2];
    wf_safetensors *s;
    write_file(UINT64_MAX, "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} ",
               want, sizeof want);
    must(wf_safetensors_open(path, &s));
    ck_assert_int_ne(wf_safetensors_entry(s, 0)->begin % 4, 0);
    must(wf_safetensors_read(s, wf_safetensors_entry(s, 0), 0, 2, got));
    ck_assert_int_eq(memcmp(got, want, sizeof got), 0);
    wf_safetensors_close(s);
}
END_TEST

/* ---- damage
 * --------------------------------------------------------------------------------------------------
 */

#define X(offsets) "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" offsets "}}"
#define Y(shape, offsets)                                                                          \
    "{\"x\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define AB(a, b)                                                                                   \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" a                                   \
    "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" b "}}"

static const struct {
    const char *header;
    uint64_t length;
    size_t bytes;
    const char *said;
} damaged[] = {
    {X("[0,8]"), UINT64_MAX - 1, 8, "cut short"},
    {X("[0,8]"), 1ull << 63, 8, "cut short"},
    {X("[0,8]"), 200, 8, "cut short"},
    {X("[0,8]"), 0, 8, "cut short"},
    {X("[0,8]"), 20, 8, "no JSON"},
    {"[1]", UINT64_MAX, 0, "does not begin with {"},
    {" {}", UINT64_MAX, 0, "does not begin with {"},
    {"{\"x\":", UINT64_MAX, 0, "no JSON"},
    {"{}}", UINT64_MAX, 0, "no JSON"},
    {"{\"a\":1,\"a\":1}", UINT64_MAX, 0, "duplicate"},
    {"{\"\\u0000\":1}", UINT64_MAX, 0, "no JSON"},
    {"{\"\xff\":1}", UINT64_MAX, 0, "no JSON"},
    {"{\"x\":{\"dtype\":[[[[[[[[[[1]]]]]]]]]]}}", UINT64_MAX, 0, "deeper"},
    {"{\"x\":1}", UINT64_MAX, 0, "tensor x is no JSON object"},
    {"{\"\":{}}", UINT64_MAX, 0, "no name"},
    {"{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", UINT64_MAX, 8, "no dtype"},
    {"{\"x\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,8]}}", UINT64_MAX, 8,
     "dtype \"F4\""},
    {"{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", UINT64_MAX, 8, "no shape"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", UINT64_MAX, 8, "data_offsets"},
    {Y("[2.0]", "[0,8]"), UINT64_MAX, 8, "extent 0"},
    {Y("[1,-2]", "[0,8]"), UINT64_MAX, 8, "extent 1"},
    {Y("[1,1,1,1,1,1,1,1,2]", "[0,8]"), UINT64_MAX, 8, "9 axes"},
    {Y("[4611686018427387904,4]", "[0,8]"), UINT64_MAX, 8, "2^63 elements"},
    {Y("[4611686018427387904]", "[0,8]"), UINT64_MAX, 8, "2^63 bytes"},
    {Y("[9223372036854775808]", "[0,8]"), UINT64_MAX, 8, "no JSON"},
    {Y("[3]", "[0,8]"), UINT64_MAX, 8, "needs 12"},
    {X("[0]"), UINT64_MAX, 8, "no two whole numbers"},
    {X("[0,8,8]"), UINT64_MAX, 8, "no two whole numbers"},
    {X("[\"0\",8]"), UINT64_MAX, 8, "no two whole numbers"},
    {X("[0.0,8]"), UINT64_MAX, 8, "no two whole numbers"},
    {X("[8,0]"), UINT64_MAX, 8, "do not lie"},
    {X("[-8,0]"), UINT64_MAX, 8, "do not lie"},
    {X("[0,8]"), UINT64_MAX, 7, "do not lie"},
    {X("[9223372036854775799,9223372036854775807]"), UINT64_MAX, 8, "do not lie"},
    {X("[0,18446744073709551615]"), UINT64_MAX, 8, "no JSON"},
    {X("[0,8]"), UINT64_MAX, 9, "last 1 bytes belong to no tensor"},
    {X("[1,9]"), UINT64_MAX, 9, "1 bytes before tensor x"},
    {AB("[0,4]", "[3,7]"), UINT64_MAX, 7, "overlap"},
    {AB("[0,4]", "[0,4]"), UINT64_MAX, 4, "overlap"},
    {AB("[0,4]", "[5,9]"), UINT64_MAX, 9, "1 bytes before tensor b"},
    {"{\"__metadata__\":{\"a\":1}}", UINT64_MAX, 0, "no text"},
    {"{\"__metadata__\":[]}", UINT64_MAX, 0, "__metadata__"},
    {"{}", UINT64_MAX, 4, "belong to no tensor"},
};

START_TEST(each_damage_is_one_sentence) {
    wf_safetensors *s = NULL;
    write_file(damaged[_i].length, damaged[_i].header, NULL, damaged[_i].bytes);
    ck_assert_int_eq(wf_safetensors_open(path, &s), WF_ERR_FILE);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(wf_last_error(), damaged[_i].said) != NULL, "\"%s\" does not say \"%s\"",
                  wf_last_error(), damaged[_i].said);
    ck_assert_msg(strstr(wf_last_error(), path) != NULL, "\"%s\" does not name the file",
                  wf_last_error());
    ck_assert_ptr_null(strchr(wf_last_error(), '\n'));
}
END_TEST

START_TEST(what_is_no_file_is_refused) {
    wf_safetensors *s = NULL;
    ck_assert_int_eq(wf_safetensors_open("no-such-file", &s), WF_ERR_FILE);
    ck_assert_int_eq(wf_safetensors_open("/", &s), WF_ERR_FILE);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "a folder"));
    ck_assert_int_eq(wf_safetensors_open("/dev/zero", &s), WF_ERR_FILE);
    write_bytes("", 0);
    ck_assert_int_eq(wf_safetensors_open(path, &s), WF_ERR_FILE);
    ck_assert_ptr_null(s);
}
END_TEST

/* The limit is looked at before memory is asked for: a sparse file of 200 MB costs nothing. */
START_TEST(huge_headers_are_refused_unread) {
    wf_safetensors *s = NULL;
    write_file(150000000, "{}", NULL, 0);
    ck_assert_int_eq(truncate(path, 200000000), 0);
    const clock_t before = clock();
    ck_assert_int_eq(wf_safetensors_open(path, &s), WF_ERR_FILE);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "the format allows 100000000"));
    ck_assert(clock() - before < CLOCKS_PER_SEC / 10);
}
END_TEST

/* 100 MB of brackets: the parser never sees them. */
START_TEST(depth_is_found_before_parsing) {
    enum { N = 20000000 };
    wf_safetensors *s = NULL;
    char *const text = malloc(N + 1);
    memset(text, '[', N);
    text[0] = '{';
    text[N] = 0;
    write_file(UINT64_MAX, text, NULL, 0);
    free(text);
    ck_assert_int_eq(wf_safetensors_open(path, &s), WF_ERR_FILE);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "deeper"));
}
END_TEST

/* ---- cut and flipped
 * ---------------------------------------------------------------------------------------- */

static const char sound[] =
    "{\"__metadata__\":{\"format\":\"pt\"},\"layer.w\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_"
    "offsets\":[0,12]},"
    "\"e\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[12,12]},"
    "\"layer.b\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[12,28]}}";
enum { SOUND_DATA = 28 };

static size_t sound_file(char out[512]) {
    char data[SOUND_DATA];
    for (int i = 0; i < SOUND_DATA; i++) data[i] = (char)(i * 37);
    return build(out, UINT64_MAX, sound, data, sizeof data);
}

/* Opens and reads all there is; what is converted lands in room of exactly its size, under
 * sanitizers. */
static bool read_all(void) {
    wf_safetensors *s;
    if (wf_safetensors_open(path, &s) != WF_OK) return false;
    for (int64_t i = 0; i < wf_safetensors_count(s); i++) {
        const wf_tensor_entry *const e = wf_safetensors_entry(s, i);
        float *const room = malloc((size_t)e->elements * sizeof *room + 1);
        (void)wf_safetensors_read(s, e, 0, e->elements, room);
        free(room);
    }
    wf_safetensors_close(s);
    return true;
}

START_TEST(every_cut_is_refused) {
    char file[512];
    const size_t bytes = sound_file(file);
    write_bytes(file, bytes);
    ck_assert(read_all());
    for (size_t n = 0; n < bytes; n++) {
        write_bytes(file, n);
        ck_assert_msg(!read_all(), "cut to %zu of %zu bytes", n, bytes);
        ck_assert_msg(strstr(wf_last_error(), path) != NULL, "%s", wf_last_error());
    }
}
END_TEST

/* A flip in the data cannot be seen; one elsewhere is refused, or leaves a file that is still
 * sound. */
START_TEST(flipped_bits_do_no_harm) {
    char file[512], one[512];
    const size_t bytes = sound_file(file);
    unsigned state = (unsigned)time(NULL), opened = 0;
    for (int i = 0; i < 1500; i++) {
        memcpy(one, file, bytes);
        for (int flips = 1 + i % 3; flips; flips--) {
            state = state * 1664525u + 1013904223u;
            const unsigned at = (state >> 8) % (unsigned)bytes;
            one[at] = (char)(one[at] ^ 1 << (state >> 29));
        }
        write_bytes(one, bytes);
        opened += read_all();
    }
    ck_assert_uint_lt(opened, 1000); /* most are refused */
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("safetensors");
    TCase *const c = tcase_create("file");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, set_path, remove_path);
    tcase_add_test(c, what_is_written_is_read);
    tcase_add_test(c, a_file_that_is_there_is_not_overwritten);
    tcase_add_test(c, halves_are_exact);
    tcase_add_test(c, brain_floats_and_doubles_are_converted);
    tcase_add_test(c, other_dtypes_are_passed_by);
    tcase_add_test(c, data_need_not_be_aligned);
    tcase_add_loop_test(c, each_damage_is_one_sentence, 0, (int)(sizeof damaged / sizeof *damaged));
    tcase_add_test(c, what_is_no_file_is_refused);
    tcase_add_test(c, huge_headers_are_refused_unread);
    tcase_add_test(c, depth_is_found_before_parsing);
    tcase_add_test(c, every_cut_is_refused);
    tcase_add_test(c, flipped_bits_do_no_harm);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
