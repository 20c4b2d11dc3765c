/* Records of a pack, read byte by byte: independent of the machine's byte order and alignment. Internal. */
#ifndef KWSQ_RECORDS_H
#define KWSQ_RECORDS_H

#include <string.h>

#include "kwsq_fixed.h"
#include "kwsq_pack.h"

enum {
    KWSQ_TENSOR_BYTES = 16,
    KWSQ_LAYER_BYTES = 40,
    KWSQ_IO_BYTES = 12,
    KWSQ_TABLE_ENTRIES = 256,
    KWSQ_SIGNED = 1,
    KWSQ_UNSIGNED = 2,
    KWSQ_CODEBOOK = 3,
    KWSQ_STREAM = 1,
    KWSQ_PLANES = 2
};
#define KWSQ_NONE 0xFFFFFFFFu

struct kwsq_layer {
    uint32_t bits, scheme, layout, rows, columns, weights_offset, levels_offset, level_count, per_channel;
    uint32_t bias, multiplier, scale, kernel[2];
    uint64_t run_stride, row_stride; /* bits */
};

struct kwsq_operator {
    uint32_t code, inputs, outputs, attributes;
    const uint8_t *tensors, *values;
};

static inline uint32_t kwsq_u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

static inline uint32_t kwsq_u32(const uint8_t *p) { return kwsq_u16(p) | kwsq_u16(p + 2) << 16; }

static inline int32_t kwsq_i32(const uint8_t *p) { return kwsq_wrap(kwsq_u32(p)); }

static inline float kwsq_f32(const uint8_t *p) {
    uint32_t bits = kwsq_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t kwsq_input(const struct kwsq_operator *op, uint32_t i) { return kwsq_u16(op->tensors + 2 * i); }

static inline uint32_t kwsq_output(const struct kwsq_operator *op, uint32_t i) {
    return kwsq_input(op, op->inputs + i);
}

static inline int32_t kwsq_attribute(const struct kwsq_operator *op, uint32_t i) { return kwsq_i32(op->values + 4 * i); }

static inline int kwsq_has_layer(const struct kwsq_operator *op) {
    return op->code >= KWSQ_CONV && op->code <= KWSQ_DENSE;
}

/* Reads the operator at `position` of the graph section and moves behind it; 0 when it does not fit. */
int kwsq_next_operator(const struct kwsq_pack *pack, uint32_t *position, struct kwsq_operator *op);

struct kwsq_layer kwsq_layer_at(const struct kwsq_pack *pack, uint32_t index);

/* Reads the bit at `position` of a tensor's weights. */
static inline uint32_t kwsq_bit(const uint8_t *weights, uint64_t position) {
    return (uint32_t)weights[position >> 3] >> (position & 7) & 1u;
}

/* Returns the bit field of one weight. */
uint32_t kwsq_field(const struct kwsq_layer *layer, const uint8_t *weights, uint32_t row, uint32_t column);

/* Returns the scale of one channel, implied by its multiplier where none is stored; infinite beyond float32. */
float kwsq_weight_scale(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel, float x_scale,
                        float y_scale);

int32_t kwsq_multiplier(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel);
int32_t kwsq_shift(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel);

/* Checks the graph, io and weights sections; returns 0 and sets pack->section and pack->error when one is broken. */
int kwsq_check(struct kwsq_pack *pack);

/* Checks one operator's shapes and attributes; adds its element operations to *work. */
int kwsq_check_operator(const struct kwsq_pack *pack, const struct kwsq_operator *op, uint64_t *work);

void kwsq_sha256(const uint8_t *data, size_t size, uint8_t digest[32]);
/* The digest of a file with zeros in place of bytes 32 to 63. */
void kwsq_sha256_blank(const uint8_t *data, size_t size, uint8_t digest[32]);

#endif
