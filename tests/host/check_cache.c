/* The program cache, forced on: what is whole is used; what is damaged, truncated, planted or in a
 * folder that others can write to never reaches the driver. CK_NOFORK. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/device/cache.h"
#include "tests/host/device_support.h"
#include "tests/scratch.h"

static char folder[512];
static wf_opencl *opencl;

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *at) {
    return remove(path);
}

static wf_opencl *open_with(const char *path) {
    wf_opencl *made = NULL;
    ck_ok(wf_opencl_create(&(wf_opencl_options){.cache = "on", .cache_dir = path}, &made));
    return made;
}

static void setup(void) {
    ck_assert_ptr_nonnull(mkdtemp(scratch_template(folder, sizeof folder, "cache")));
    opencl = open_with(folder);
    ck_assert_ptr_nonnull(opencl->cache);
}

static void teardown(void) {
    wf_opencl_destroy(opencl);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A kept entry of some bytes, and its path. */
static wf_cache_key plant(const char *text, char path[1024]) {
    wf_cache_key key;
    char hex[2 * WF_SHA256_BYTES + 1];
    wf_cache_key_of(opencl, text, "-DX", &key);
    wf_cache_write(opencl->cache, &key, (const unsigned char *)text, strlen(text));
    wf_sha256_hex(key.digest, hex);
    snprintf(path, 1024, "%s/%s.bin", folder, hex);
    ck_assert_int_eq(access(path, R_OK), 0);
    return key;
}

static bool readable(const wf_cache_key *key) {
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    const bool found = wf_cache_read(opencl->cache, key, &bytes, &nbytes);
    if (found) free(bytes);
    return found;
}

START_TEST(entries_come_back_whole) {
    char path[1024];
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    const wf_cache_key key = plant("some driver's bytes", path);
    ck_assert(wf_cache_read(opencl->cache, &key, &bytes, &nbytes));
    ck_assert_int_eq((int)nbytes, 19);
    ck_assert_mem_eq(bytes, "some driver's bytes", 19);
    free(bytes);
    wf_cache_key other;
    wf_cache_key_of(opencl, "some driver's bytes", "-DY", &other);
    ck_assert(!readable(&other));
}
END_TEST

static bool offered_is_kept(const wf_cache_key *key, const char *text, const char *kept) {
    unsigned char *bytes = NULL;
    size_t nbytes = 0;
    ck_assert(wf_cache_offer(opencl->cache, key, (const unsigned char *)text, strlen(text), &bytes, &nbytes));
    const bool same = nbytes == strlen(kept) && memcmp(bytes, kept, nbytes) == 0;
    free(bytes);
    return same;
}

static int damage_all(void);
static int files(void) {
    int n = -2;
    DIR *entries = opendir(folder);
    while (readdir(entries)) n++;
    closedir(entries);
    return n;
}

START_TEST(the_first_sound_entry_stays) {
    wf_cache_key key;
    wf_cache_key_of(opencl, "text", "-DX", &key);
    ck_assert(offered_is_kept(&key, "one", "one"));
    ck_assert(offered_is_kept(&key, "another", "one"));
    ck_assert_int_eq(damage_all(), 1);
    ck_assert(offered_is_kept(&key, "another", "another"));
    ck_assert_int_eq(files(), 1); /* nothing else is left */
}
END_TEST

START_TEST(every_single_damaged_byte_is_seen) {
    char path[1024];
    const wf_cache_key key = plant("damage me", path);
    struct stat status;
    ck_assert_int_eq(stat(path, &status), 0);
    const int file = open(path, O_RDWR);
    for (off_t at = 0; at < status.st_size; at++) {
        unsigned char byte, flipped;
        ck_assert_int_eq((int)pread(file, &byte, 1, at), 1);
        flipped = byte ^ 0x10;
        ck_assert_int_eq((int)pwrite(file, &flipped, 1, at), 1);
        ck_assert_msg(!readable(&key), "byte %d damaged and not seen", (int)at);
        ck_assert_int_eq((int)pwrite(file, &byte, 1, at), 1);
    }
    ck_assert(readable(&key));
    for (off_t size = status.st_size - 1; size >= 0; size--) {
        ck_assert_int_eq(ftruncate(file, size), 0);
        ck_assert_msg(!readable(&key), "cut to %d bytes and not seen", (int)size);
    }
    close(file);
}
END_TEST

START_TEST(longer_renamed_and_linked_entries_are_refused) {
    char path[1024], other[1024], away[1024];
    wf_cache_key key = plant("one", path), second = plant("two", other);
    ck_assert_int_eq(rename(other, path), 0);
    ck_assert(!readable(&key) && !readable(&second));
    key = plant("one", path);
    ck_assert(readable(&key));
    snprintf(away, sizeof away, "%s/away", folder);
    ck_assert_int_eq(rename(path, away), 0);
    ck_assert_int_eq(symlink(away, path), 0);
    ck_assert(!readable(&key));
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rename(away, path), 0);
    ck_assert(readable(&key));
    const int file = open(path, O_WRONLY | O_APPEND);
    ck_assert_int_eq((int)write(file, "x", 1), 1);
    close(file);
    ck_assert(!readable(&key));
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* must not hang either */
    ck_assert(!readable(&key));
}
END_TEST

START_TEST(entries_that_others_may_have_written_are_refused) {
    char path[1024];
    const wf_cache_key key = plant("mine", path);
    ck_assert_int_eq(chmod(path, 0620), 0);
    ck_assert(!readable(&key));
    ck_assert_int_eq(chmod(path, 0600), 0);
    ck_assert(readable(&key));
    if (geteuid() == 0 && chown(path, 65534, 65534) == 0) ck_assert(!readable(&key));
}
END_TEST

START_TEST(folders_that_others_may_write_to_are_not_used) {
    char path[1024], link[1024];
    snprintf(path, sizeof path, "%s/open", folder);
    snprintf(link, sizeof link, "%s/link", folder);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    static const mode_t modes[] = {0777, 0770, 0702};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        ck_assert_int_eq(chmod(path, modes[i]), 0);
        wf_opencl *other = open_with(path);
        ck_assert_ptr_null(other->cache);
        wf_opencl_destroy(other);
    }
    ck_assert_int_eq(chmod(path, 0700), 0);
    ck_assert_int_eq(symlink(path, link), 0);
    wf_opencl *linked = open_with(link), *plain = open_with(path);
    ck_assert_ptr_null(linked->cache);
    ck_assert_ptr_nonnull(plain->cache);
    wf_opencl_destroy(linked);
    wf_opencl_destroy(plain);
    if (geteuid() != 0 || chown(path, 65534, 65534) != 0) return;
    wf_opencl *foreign = open_with(path);
    ck_assert_ptr_null(foreign->cache);
    wf_opencl_destroy(foreign);
}
END_TEST

/* Damages the last byte of each entry. */
static int damage_all(void) {
    int n = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!strstr(entry->d_name, ".bin")) continue;
        const int file = openat(dirfd(entries), entry->d_name, O_RDWR);
        const off_t last = lseek(file, 0, SEEK_END) - 1;
        unsigned char byte;
        ck_assert_int_eq((int)pread(file, &byte, 1, last), 1);
        byte ^= 1;
        ck_assert_int_eq((int)pwrite(file, &byte, 1, last), 1);
        close(file);
        n++;
    }
    closedir(entries);
    return n;
}

static const char scale_options[] = "-DFACTOR=7 -DGROUP=32";

/* Builds and runs `scale` on a freshly opened device; returns how many programs the cache gave. */
static int64_t build_and_run(void) {
    wf_opencl *one = open_with(folder);
    const wf_problem problem = scale_problem(3);
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    const float in[3] = {1, 2, 3};
    float out[3] = {0};
    wf_kernel *kernel = NULL;
    wf_memory *memory = NULL;
    ck_ok(wf_kernel_prepare_as(one, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                               scale_options, &kernel));
    ck_ok(wf_memory_create(one, 64, &memory));
    ck_ok(wf_queue_write(one, WF_QUEUE_COMPUTE, memory, 0, sizeof in, in, NULL));
    const wf_bound_view views[] = {{memory, 0, {1}}, {memory, 8, {1}}};
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, NULL));
    ck_ok(wf_queue_read(one, WF_QUEUE_COMPUTE, memory, 32, sizeof out, out, NULL));
    ck_ok(wf_queue_finish(one, WF_QUEUE_COMPUTE));
    for (int i = 0; i < 3; i++) ck_assert(out[i] == 7 * in[i] + 0.5f);
    const int64_t loaded = one->loaded;
    ck_assert_int_eq((int)(loaded + one->compiled), 1);
    ck_assert((one->loaded > 0 && one->compiled == 0) == loaded);
    wf_kernel_destroy(kernel);
    wf_memory_destroy(memory);
    wf_opencl_destroy(one);
    return loaded;
}

START_TEST(programs_come_out_of_the_cache_and_damaged_ones_from_source) {
    ck_assert_int_eq(build_and_run(), 0);
    ck_assert_int_eq(build_and_run(), 1);
    ck_assert_int_eq(damage_all(), 1);
    ck_assert_int_eq(build_and_run(), 0); /* and mended */
    ck_assert_int_eq(build_and_run(), 1);
}
END_TEST

/* Whole, of the right name, and nothing that a driver could use. */
START_TEST(what_a_driver_refuses_is_built_from_source) {
    enum { BYTES = 8192 };
    unsigned char *const nonsense = malloc(BYTES);
    wf_cache_key key;
    char options[64];
    snprintf(options, sizeof options, "-cl-std=CL1.2 %s", scale_options);
    wf_cache_key_of(opencl, scale_source, options, &key);
    static const char *const heads[] = {"", "BC\xC0\xDE", "poclbin"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        memset(nonsense, 'x', BYTES);
        memcpy(nonsense, heads[i], strlen(heads[i]));
        wf_cache_write(opencl->cache, &key, nonsense, BYTES);
        ck_assert(readable(&key));
        ck_assert_int_eq(build_and_run(), 0); /* so the key is the program's */
        ck_assert_int_eq(build_and_run(), 1);
    }
    free(nonsense);
}
END_TEST

/* The one entry in the folder; its bytes, malloc'ed, behind the header. */
static unsigned char *only_entry(size_t *nbytes_out) {
    unsigned char *bytes = NULL;
    int n = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        struct stat status;
        if (!strstr(entry->d_name, ".bin") || n++) continue;
        const int file = openat(dirfd(entries), entry->d_name, O_RDONLY);
        const off_t head = 16 + 8 + 2 * WF_SHA256_BYTES;
        ck_assert_int_eq(fstat(file, &status), 0);
        *nbytes_out = (size_t)(status.st_size - head);
        bytes = malloc(*nbytes_out);
        ck_assert_int_eq((int)pread(file, bytes, *nbytes_out, head), (int)*nbytes_out);
        close(file);
    }
    closedir(entries);
    ck_assert_int_eq(n, 1);
    return bytes;
}

/* PoCL's own binaries hold machine code; weft's entries for it do not. */
START_TEST(intermediate_code_is_kept_where_the_driver_keeps_the_rest) {
    size_t nbytes = 0;
    if (strstr(opencl->device.platform, "Portable")) ck_assert(opencl->kept.intermediate);
    if (!opencl->kept.intermediate) return;
    build_and_run();
    unsigned char *const bytes = only_entry(&nbytes);
    ck_assert_int_gt((int)nbytes, 64);
    ck_assert_mem_eq(bytes, "BC\xC0\xDE", 4);
    ck_assert_ptr_null(memmem(bytes, nbytes, "\177ELF", 4));
    free(bytes);
}
END_TEST

START_TEST(bitcode_is_found_or_left_alone) {
    static const unsigned char whole[] = "head\13\0\0\0/program.bc\6\0\0\0BC\xC0\xDEwe\0\0tail";
    enum { AT = 4 + 15 + 4, LENGTH = 6 };
    unsigned char other[sizeof whole];
    size_t nbytes = 0;
    ck_assert_ptr_eq(wf_intermediate_find(whole, sizeof whole, &nbytes), whole + AT);
    ck_assert_int_eq((int)nbytes, LENGTH);
    ck_assert_ptr_eq(wf_intermediate_find(whole, AT + LENGTH, &nbytes), whole + AT);
    for (size_t cut = 0; cut < AT + LENGTH; cut++) ck_assert_ptr_null(wf_intermediate_find(whole, cut, &nbytes));
    for (size_t at = 4; at < AT + 4; at++) { /* path, length or mark */
        memcpy(other, whole, sizeof whole);
        other[at] ^= 0x80;
        ck_assert_msg(!wf_intermediate_find(other, sizeof other, &nbytes), "byte %d changed and not seen", (int)at);
    }
}
END_TEST

/* Another driver, processor or set of flags: another entry. */
START_TEST(entries_are_of_one_driver) {
    wf_cache_key key, other;
    char kept[sizeof opencl->identity];
    ck_assert_int_gt((int)strlen(opencl->identity), 8);
    wf_cache_key_of(opencl, "text", "-DX", &key);
    memcpy(kept, opencl->identity, sizeof kept);
    for (char *at = opencl->identity; *at; at++) {
        *at ^= 1;
        wf_cache_key_of(opencl, "text", "-DX", &other);
        ck_assert(memcmp(&key, &other, sizeof key) != 0);
        *at ^= 1;
    }
    wf_cache_key_of(opencl, "text", "-DX", &other);
    ck_assert_mem_eq(&key, &other, sizeof key);
    if (!opencl->kept.intermediate) return;
    setenv("POCL_EXTRA_BUILD_FLAGS", "-DY", 1);
    wf_cache_key_of(opencl, "text", "-DX", &other);
    unsetenv("POCL_EXTRA_BUILD_FLAGS");
    ck_assert(memcmp(&key, &other, sizeof key) != 0);
}
END_TEST

/* The option, or the variable where it was left out. */
START_TEST(it_is_on_off_or_automatic) {
    static const char *const words[] = {"on", "off", "auto"};
    const bool by_driver = *opencl->kept.keeper && !opencl->kept.intermediate;
    for (int i = 0; i < 3; i++) {
        wf_opencl *said = NULL, *meant = NULL;
        const bool used = i == 0 || (i == 2 && !by_driver);
        setenv("WEFT_CACHE", i == 0 ? "off" : "on", 1);
        ck_ok(wf_opencl_create(&(wf_opencl_options){.cache = words[i], .cache_dir = folder}, &said));
        setenv("WEFT_CACHE", words[i], 1);
        ck_ok(wf_opencl_create(&(wf_opencl_options){.cache_dir = folder}, &meant));
        ck_assert_msg((said->cache != NULL) == used && (meant->cache != NULL) == used, "\"%s\"", words[i]);
        wf_opencl_destroy(said);
        wf_opencl_destroy(meant);
    }
    wf_opencl *other = NULL;
    setenv("WEFT_CACHE", "perhaps", 1);
    ck_fails(WF_ERR_ARGUMENT, wf_opencl_create(&(wf_opencl_options){.cache_dir = folder}, &other));
    unsetenv("WEFT_CACHE");
    ck_fails(WF_ERR_ARGUMENT, wf_opencl_create(&(wf_opencl_options){.cache = "perhaps", .cache_dir = folder}, &other));
}
END_TEST

START_TEST(what_is_kept_is_counted) {
    char path[1024];
    wf_cache_info info;
    plant("one", path);
    plant("another", path);
    wf_opencl_cache(opencl, &info);
    ck_assert(info.own.used);
    ck_assert_str_eq(info.own.folder, folder);
    ck_assert_int_eq((int)info.own.files, 2);
    ck_assert_int_gt((int)info.own.bytes, 10);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cache");
    TCase *tests = tcase_create("cache");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, entries_come_back_whole);
    tcase_add_test(tests, the_first_sound_entry_stays);
    tcase_add_test(tests, every_single_damaged_byte_is_seen);
    tcase_add_test(tests, longer_renamed_and_linked_entries_are_refused);
    tcase_add_test(tests, entries_that_others_may_have_written_are_refused);
    tcase_add_test(tests, folders_that_others_may_write_to_are_not_used);
    tcase_add_test(tests, programs_come_out_of_the_cache_and_damaged_ones_from_source);
    tcase_add_test(tests, what_a_driver_refuses_is_built_from_source);
    tcase_add_test(tests, intermediate_code_is_kept_where_the_driver_keeps_the_rest);
    tcase_add_test(tests, bitcode_is_found_or_left_alone);
    tcase_add_test(tests, entries_are_of_one_driver);
    tcase_add_test(tests, it_is_on_off_or_automatic);
    tcase_add_test(tests, what_is_kept_is_counted);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
