/* log.h: lines on stderr for those who ask (WEFT_LOG=plan,cache or all). Never on stdout, never in
 * hot paths. */
#ifndef WF_BASE_LOG_H
#define WF_BASE_LOG_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Categories: "plan", "cache", "fabric", "device", "build". */
bool wf_log_on(const char *category);
/* One line, "weft: category: ...", if the category is on. */
void wf_log(const char *category, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same whether or not it is asked for: something the user should know. */
void wf_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif
#endif
