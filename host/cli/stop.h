/* stop.h: a signal asks a run that can save itself to finish its step, save and end. */
#ifndef WEFT_CLI_STOP_H
#define WEFT_CLI_STOP_H

/* From now on the first SIGTERM, SIGINT or SIGUSR1 is only noted; a second one of the same kind ends
 * the process as ever. */
void stop_watch(void);
/* The first signal that was noted; 0: none. */
int stop_signal(void);

#endif
