/* seeded.c: one fault of memory, by name, so that check_valgrind.sh knows that faults are seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *const fault = argc > 1 ? argv[1] : "none";
    char *volatile memory = malloc(40);
    if (!memory) return 1;
    if (!strcmp(fault, "overrun")) memory[40] = 1;
    if (!strcmp(fault, "uninitialised") && memory[3] == 7) puts("seven");
    if (strcmp(fault, "leak") != 0) free(memory);
    memory = NULL;
    return 0;
}
