/* keep_loaded.c: in sanitized programs only. Open MPI closes its plug-ins before the process ends; LeakSanitizer
 * then sees their leaks as those of an unknown module, which no suppression can name. Nothing is closed here,
 * so that leaks.supp tells their leaks from weft's. */
extern const int wf_keep_loaded; /* what the linker is told to want */
__attribute__((visibility("default"))) int dlclose(void *handle);

const int wf_keep_loaded = 1;

int dlclose(void *handle) {
    return 0;
}
