#include "host/cli/stop.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t noted;

static void note(int number) {
    if (!noted) noted = number;
}

void stop_watch(void) {
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
    struct sigaction action;
    if (noted) return;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    action.sa_flags = SA_RESTART | (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
}

int stop_signal(void) {
    stop_watch();
    return noted;
}
