/* Access to records. */
#include <math.h>

#include "kwsq_records.h"

struct kwsq_tensor kwsq_tensor_at(const struct kwsq_pack *pack, uint32_t index) {
    const uint8_t *p = pack->tensors + (size_t)KWSQ_TENSOR_BYTES * index;
    const uint8_t *dims = pack->dimensions + 4 * (size_t)kwsq_u16(p + 2);
    struct kwsq_tensor t;
    memset(&t, 0, sizeof t);
    t.type = p[0];
    t.rank = p[1];
    t.offset = kwsq_u32(p + 4);
    t.scale = kwsq_f32(p + 8);
    t.zero_point = (int32_t)kwsq_u16(p + 12);
    if (t.zero_point > 0x7FFF) t.zero_point -= 0x10000;
    t.is_constant = p[14];
    t.size = 1;
    for (uint32_t i = 0; i < t.rank; i++) {
        t.dims[i] = kwsq_u32(dims + 4 * i);
        t.size *= t.dims[i];
    }
    t.size_bytes = t.type == KWSQ_FLOAT32 ? 4 * t.size : t.size;
    return t;
}

struct kwsq_io kwsq_io_at(const struct kwsq_pack *pack, uint32_t index) {
    const uint8_t *section = pack->sections[KWSQ_IO].data, *p = section + 4 + (size_t)KWSQ_IO_BYTES * index;
    struct kwsq_io io;
    io.tensor = kwsq_u16(p);
    io.is_output = p[2];
    io.partner = kwsq_u16(p + 4);
    io.name_length = kwsq_u16(p + 6);
    io.name = (const char *)section + kwsq_u32(p + 8);
    return io;
}

struct kwsq_layer kwsq_layer_at(const struct kwsq_pack *pack, uint32_t index) {
    const uint8_t *p = pack->layers + (size_t)KWSQ_LAYER_BYTES * index;
    struct kwsq_layer l;
    l.bits = p[0];
    l.scheme = p[1];
    l.layout = p[2];
    l.rows = kwsq_u32(p + 4);
    l.columns = kwsq_u32(p + 8);
    l.weights_offset = kwsq_u32(p + 12);
    l.levels_offset = kwsq_u32(p + 16);
    l.level_count = kwsq_u16(p + 20);
    l.per_channel = p[22];
    l.bias = kwsq_u32(p + 24);
    l.multiplier = kwsq_u32(p + 28);
    l.scale = kwsq_u32(p + 32);
    l.kernel[0] = kwsq_u16(p + 36);
    l.kernel[1] = kwsq_u16(p + 38);
    uint64_t align = (uint64_t)1 << (p[3] & 15), runs = l.layout == KWSQ_PLANES ? l.bits : 1;
    uint64_t used = l.layout == KWSQ_PLANES ? l.columns : (uint64_t)l.columns * l.bits;
    l.run_stride = (used + align - 1) / align * align;
    l.row_stride = runs * l.run_stride;
    return l;
}

int kwsq_next_operator(const struct kwsq_pack *pack, uint32_t *position, struct kwsq_operator *op) {
    struct kwsq_span graph = pack->sections[KWSQ_GRAPH];
    const uint8_t *p = graph.data + *position;
    uint32_t left = graph.size - *position;
    if (left < 4) return 0;
    op->code = p[0];
    op->inputs = p[1];
    op->outputs = p[2];
    op->attributes = p[3];
    uint32_t count = op->inputs + op->outputs, numbers = 2 * (count + count % 2);
    if (left < 4 + numbers + 4 * op->attributes) return 0;
    if (count % 2 && kwsq_u16(p + 4 + 2 * count)) return 0;
    op->tensors = p + 4;
    op->values = p + 4 + numbers;
    *position += 4 + numbers + 4 * op->attributes;
    return 1;
}

uint32_t kwsq_field(const struct kwsq_layer *layer, const uint8_t *weights, uint32_t row, uint32_t column) {
    uint64_t position = (uint64_t)row * layer->row_stride;
    uint32_t field = 0;
    if (layer->layout == KWSQ_PLANES) {
        for (uint32_t bit = 0; bit < layer->bits; bit++)
            field |= kwsq_bit(weights, position + bit * layer->run_stride + column) << bit;
        return field;
    }
    position += (uint64_t)column * layer->bits;
    uint32_t shift = (uint32_t)(position & 7);
    field = weights[position >> 3];
    if (shift + layer->bits > 8) field |= (uint32_t)weights[(position >> 3) + 1] << 8;
    return field >> shift & ((1u << layer->bits) - 1u);
}

int32_t kwsq_multiplier(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel) {
    size_t index = (size_t)layer->multiplier + (layer->per_channel ? channel : 0);
    return kwsq_i32(pack->sections[KWSQ_REQUANTIZATION].data + 4 * index);
}

int32_t kwsq_shift(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel) {
    struct kwsq_span section = pack->sections[KWSQ_REQUANTIZATION];
    size_t index = (size_t)layer->multiplier + (layer->per_channel ? channel : 0);
    return kwsq_i8(section.data[section.size / 5 * 4 + index]);
}

float kwsq_weight_scale(const struct kwsq_pack *pack, const struct kwsq_layer *layer, uint32_t channel, float x_scale,
                        float y_scale) {
    if (layer->scale != KWSQ_NONE) {
        size_t index = (size_t)layer->scale + (layer->per_channel ? channel : 0);
        return kwsq_f32(pack->sections[KWSQ_SCALES].data + 4 * index);
    }
    double value = kwsq_multiplier(pack, layer, channel);
    for (int32_t i = kwsq_shift(pack, layer, channel) - 31; i < 0; i++) value *= 0.5; /* exact */
    value = value * y_scale / x_scale;
    /* Above this, rounding to float32 overflows, which C leaves undefined. */
    return value >= 3.4028235677973366e38 ? INFINITY : (float)value;
}
