/* gate.h: a user event that holds commands back until another thread completes it, a while later: a call that returned
 * before has not waited for what stands behind it. */
#ifndef WEFT_TESTS_GATE_H
#define WEFT_TESTS_GATE_H

#include <CL/cl.h>
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

typedef struct gate {
    cl_event event;
    atomic_bool open;
    pthread_t keeper;
} gate;

static inline void *gate_keeper(void *user) {
    gate *const g = user;
    usleep(100000);
    atomic_store(&g->open, true);
    clSetUserEventStatus(g->event, CL_COMPLETE);
    return NULL;
}

static inline void gate_shut(gate *g, cl_context context) {
    cl_int code;
    g->event = clCreateUserEvent(context, &code);
    ck_assert_int_eq(code, CL_SUCCESS);
    atomic_init(&g->open, false);
    ck_assert_int_eq(pthread_create(&g->keeper, NULL, gate_keeper, g), 0);
}

static inline bool gate_is_open(gate *g) {
    return atomic_load(&g->open);
}

static inline void gate_end(gate *g) {
    pthread_join(g->keeper, NULL);
    clReleaseEvent(g->event);
}

#endif
