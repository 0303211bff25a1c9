/* stop.h: a signal asks a run that can save itself to finish its step, save and end. */
#ifndef WEFT_CLI_STOP_H
#define WEFT_CLI_STOP_H

/* From now on the first SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 is only noted; a second one of the same kind
 * ends the process as ever. A driver's compiler takes signals for itself whenever it runs (LLVM: all
 * but SIGTERM; it hands SIGINT and SIGUSR2 on, SIGUSR1 not), so the watch is set again at every look. */
void stop_watch(void);
/* The first signal that was noted; 0: none. */
int stop_signal(void);

#endif
