/* npy.h: NumPy's array files (format 1.0 to 3.0): headers of files that are read, files that are written. */
#ifndef WEFT_CLI_NPY_H
#define WEFT_CLI_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { NPY_DIMS = 8 };

typedef struct npy_header {
    char type[16];              /* "<i4" */
    bool fortran_order;
    int dims;
    int64_t extent[NPY_DIMS];
    int64_t data;               /* offset of the first element */
} npy_header;

bool npy_is(const unsigned char *bytes, int64_t size);
/* Reads the header at the beginning of `size` bytes. NULL, or what is wrong with it, a phrase. */
const char *npy_parse(const unsigned char *bytes, int64_t size, npy_header *out);

/* A file of f32 rows, [rows, columns]: written under a temporary name beside `path`, synced and renamed at
 * the end, so that it is whole or not there. Each returns an exit status after one sentence. */
typedef struct npy_writer {
    char path[4096], temporary[4128];
    FILE *file;
    int64_t columns;
} npy_writer;
int npy_create(const char *path, int64_t rows, int64_t columns, npy_writer *out);
int npy_write_row(npy_writer *writer, const float *row);
int npy_finish(npy_writer *writer);
/* Removes what was begun; fine after npy_finish and for a zeroed writer. */
void npy_abandon(npy_writer *writer);

#endif
