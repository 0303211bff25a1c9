/* status.c: the library's statuses are the rooms' statuses, one to one. */
#include <stdlib.h>

#include "host/api/weft.h"
#include "host/base/status.h"

_Static_assert((int)WEFT_ERR_ARGUMENT == (int)WF_ERR_ARGUMENT && (int)WEFT_ERR_FILE == (int)WF_ERR_FILE &&
                   (int)WEFT_ERR_INTERNAL == (int)WF_ERR_INTERNAL,
               "weft_status mirrors wf_status");

const char *weft_last_error(void) {
    return wf_last_error();
}

const char *weft_version(void) {
    return WEFT_VERSION;
}

void weft_text_free(char *text) {
    free(text);
}
