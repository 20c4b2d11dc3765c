/* The operators without weights, on tensors wherever they lie: C99, no heap. What `numbers` hold of each operator is what
 * docs/pack-format.md lists as its attributes. */
#ifndef KWSQ_KERNELS_H
#define KWSQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { KWSQ_MAX_RANK = 8 };

enum kwsq_type { KWSQ_INT8 = 1, KWSQ_UINT8 = 2, KWSQ_FLOAT32 = 3 };

enum kwsq_status {
    KWSQ_OK = 0,
    KWSQ_DAMAGED = 1,     /* the file is not a well-formed pack: pack.section and pack.error say where and why */
    KWSQ_OUT_OF_RANGE = 2 /* an input holds NaN, or a code for which an operator has no value */
};

enum kwsq_opcode {
    KWSQ_CONV = 1,
    KWSQ_DEPTHWISE = 2,
    KWSQ_DENSE = 3,
    KWSQ_MATMUL = 4,
    KWSQ_ADD = 5,
    KWSQ_SUB = 6,
    KWSQ_SQUARED_DIFFERENCE = 7,
    KWSQ_MUL = 8,
    KWSQ_MAXIMUM = 9,
    KWSQ_MINIMUM = 10,
    KWSQ_PRELU = 11,
    KWSQ_TABLE = 12,
    KWSQ_SOFTMAX = 13,
    KWSQ_AVERAGE_POOL = 14,
    KWSQ_MAX_POOL = 15,
    KWSQ_MEAN = 16,
    KWSQ_REDUCE_MAX = 17,
    KWSQ_PAD = 18,
    KWSQ_RESHAPE = 19,
    KWSQ_TRANSPOSE = 20,
    KWSQ_CONCAT = 21,
    KWSQ_SLICE = 22,
    KWSQ_SPLIT = 23,
    KWSQ_REQUANTIZE = 24,
    KWSQ_QUANTIZE = 25,
    KWSQ_DEQUANTIZE = 26
};

/* A tensor; activations lie at `offset` in the arena. */
struct kwsq_tensor {
    uint32_t dims[KWSQ_MAX_RANK];
    uint32_t rank, size, size_bytes, offset;
    int32_t zero_point;
    float scale;
    uint8_t type, is_constant;
};

/* An operator about to run; `b` is the second input, where there is one. */
struct kwsq_call {
    enum kwsq_opcode code;
    const int32_t *numbers;
    const uint8_t *table; /* 256 entries, of KWSQ_TABLE */
    const struct kwsq_tensor *x, *b, *y;
    const uint8_t *x_data, *b_data;
    uint8_t *y_data;
};

void kwsq_matmul(const struct kwsq_call *c);
void kwsq_elementwise(const struct kwsq_call *c); /* KWSQ_ADD to KWSQ_PRELU */
enum kwsq_status kwsq_table(const struct kwsq_call *c);
void kwsq_softmax(const struct kwsq_call *c);
void kwsq_requantize(const struct kwsq_call *c);
enum kwsq_status kwsq_quantize(const struct kwsq_call *c);
void kwsq_dequantize(const struct kwsq_call *c);
void kwsq_pool(const struct kwsq_call *c);   /* KWSQ_AVERAGE_POOL, KWSQ_MAX_POOL */
void kwsq_reduce(const struct kwsq_call *c); /* KWSQ_MEAN, KWSQ_REDUCE_MAX */
void kwsq_pad(const struct kwsq_call *c);
void kwsq_reshape(const struct kwsq_call *c);
void kwsq_transpose(const struct kwsq_call *c);
void kwsq_slice(const struct kwsq_call *c);

/* Copies a part into its whole, or out of it; `done` is where it begins along `axis`, in elements. */
void kwsq_join(const struct kwsq_tensor *whole, uint8_t *to, const struct kwsq_tensor *part, const uint8_t *from,
               uint32_t axis, uint32_t done);
void kwsq_part(const struct kwsq_tensor *whole, const uint8_t *from, const struct kwsq_tensor *part, uint8_t *to,
               uint32_t axis, uint32_t done);

#endif
