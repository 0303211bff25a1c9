/* keep_loaded.c: in sanitized programs only, where the linker is told to want it (-u). Open MPI closes its plug-ins before the process ends; LeakSanitizer
 * then sees their leaks as those of an unknown module, which no suppression can name. Nothing is closed here,
 * so that leaks.supp tells their leaks from weft's. */
int dlclose(void *handle);

int dlclose(void *handle) {
    return 0;
}
