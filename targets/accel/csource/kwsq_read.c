/* The container: header, section table, digests; and access to records. */
#include <math.h>

#include "kwsq_records.h"

enum { HEADER_BYTES = 64, ENTRY_BYTES = 48, ALIGNMENT = 16, GRAPH_HEADER_BYTES = 16 };

static enum kwsq_status refuse(struct kwsq_pack *pack, enum kwsq_section section, const char *error) {
    pack->section = section;
    pack->error = error;
    return KWSQ_DAMAGED;
}

static uint32_t aligned(uint32_t n) { return (n + (ALIGNMENT - 1)) & ~(uint32_t)(ALIGNMENT - 1); }

static int all_zero(const uint8_t *data, uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; i++)
        if (data[i]) return 0;
    return 1;
}

static const char *header_fault(const uint8_t *data, size_t size) {
    if (size < HEADER_BYTES || size > 0xFFFFFFF0u) return "header: too short or too long for a pack";
    if (memcmp(data, "KWSQPACK", 8)) return "header: no magic";
    if (kwsq_u16(data + 8) != 1 || kwsq_u16(data + 10) != 0) return "header: another version";
    if (kwsq_u32(data + 12) != 0x0A0B0C0Du) return "header: another byte order";
    if (kwsq_u32(data + 16) != size) return "header: another length than the file's";
    if (kwsq_u32(data + 24) != ALIGNMENT || kwsq_u32(data + 28)) return "header: alignment or reserved field";
    return NULL;
}

static enum kwsq_status read_sections(struct kwsq_pack *pack) {
    const uint8_t *data = pack->file.data;
    uint32_t size = pack->file.size, count = kwsq_u32(data + 20), before = 0;
    if (count == 0 || count >= KWSQ_SECTION_COUNT || size < HEADER_BYTES + ENTRY_BYTES * count)
        return refuse(pack, KWSQ_HEADER, "header: number of sections");
    uint32_t position = HEADER_BYTES + ENTRY_BYTES * count;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = data + HEADER_BYTES + ENTRY_BYTES * i;
        uint32_t type = kwsq_u32(entry), offset = kwsq_u32(entry + 4), length = kwsq_u32(entry + 8);
        uint32_t start = aligned(position);
        uint8_t digest[32];
        if (type <= before || type >= KWSQ_SECTION_COUNT)
            return refuse(pack, KWSQ_HEADER, "section table: types do not rise");
        enum kwsq_section section = (enum kwsq_section)type;
        if (offset != start || start > size || length > size - start || kwsq_u32(entry + 12))
            return refuse(pack, section, "section: not where the one before it ends, or beyond the file");
        if (!all_zero(data, position, start)) return refuse(pack, section, "section: padding before it is not zero");
        kwsq_sha256(data + offset, length, digest);
        if (memcmp(digest, entry + 16, 32)) return refuse(pack, section, "section: another SHA-256");
        pack->sections[type].data = data + offset;
        pack->sections[type].size = length;
        before = type;
        position = offset + length;
    }
    if (aligned(position) != size || !all_zero(data, position, size))
        return refuse(pack, KWSQ_HEADER, "end of the file: bytes after the last section");
    return KWSQ_OK;
}

enum kwsq_status kwsq_open(struct kwsq_pack *pack, const void *data, size_t size) {
    uint8_t digest[32];
    const char *fault = header_fault(data, size);
    memset(pack, 0, sizeof *pack);
    if (fault) return refuse(pack, KWSQ_HEADER, fault);
    pack->file.data = data;
    pack->file.size = (uint32_t)size;
    if (read_sections(pack) != KWSQ_OK) return KWSQ_DAMAGED;
    kwsq_sha256_blank(data, size, digest);
    if (memcmp(digest, pack->file.data + 32, 32)) return refuse(pack, KWSQ_HEADER, "header: another SHA-256");
    if (pack->sections[KWSQ_MANIFEST].size == 0) return refuse(pack, KWSQ_MANIFEST, "manifest: missing");
    struct kwsq_span graph = pack->sections[KWSQ_GRAPH];
    if (graph.size < GRAPH_HEADER_BYTES) return refuse(pack, KWSQ_GRAPH, "graph: missing or too short");
    pack->tensor_count = kwsq_u16(graph.data);
    pack->operator_count = kwsq_u16(graph.data + 2);
    pack->layer_count = kwsq_u16(graph.data + 4);
    pack->dimension_count = kwsq_u32(graph.data + 8);
    pack->activation_bytes = kwsq_u32(graph.data + 12);
    return kwsq_check(pack) ? KWSQ_OK : KWSQ_DAMAGED;
}

size_t kwsq_arena_bytes(const struct kwsq_pack *pack) {
    return (size_t)pack->activation_bytes + pack->row_bytes;
}

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

void kwsq_reset(const struct kwsq_pack *pack, uint8_t *arena) {
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        if (io.partner == KWSQ_NO_PARTNER) continue;
        struct kwsq_tensor t = kwsq_tensor_at(pack, io.tensor);
        memset(arena + t.offset, t.zero_point & 255, t.size_bytes);
    }
}

void kwsq_step(const struct kwsq_pack *pack, uint8_t *arena) {
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        if (io.partner == KWSQ_NO_PARTNER) continue;
        struct kwsq_tensor to = kwsq_tensor_at(pack, io.tensor);
        struct kwsq_tensor from = kwsq_tensor_at(pack, kwsq_io_at(pack, io.partner).tensor);
        memmove(arena + to.offset, arena + from.offset, to.size_bytes);
    }
}
