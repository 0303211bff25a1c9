/* trust.h: could somebody else have put there what a folder holds? What is in a cache of compiled
 * programs is executed, so only the user himself, and root, may be able to write to it.
 *
 * Looked at: each folder of the path and each link on the way (whose owner could turn it), the folder,
 * and the folders directly in it. A parent that all may write to is fine where it is sticky (/tmp): what lies
 * in it is its owner's. A group counts as the user himself where it is his private one, as Debian's sshd has it. */
#ifndef WF_BASE_TRUST_H
#define WF_BASE_TRUST_H

#include <sys/stat.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* NULL where this file or folder is the user's and nobody else may write to it, no group either; else why not. */
const char *wf_distrust(const struct stat *);
/* WF_OK too where the folder is not there yet. WF_ERR_FILE: "/x/y may be written to by others". */
wf_status wf_trust_folder(const char *path);

#ifdef __cplusplus
}
#endif
#endif
