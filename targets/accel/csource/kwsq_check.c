/* Whether the records make a network: the rules of docs/pack-format.md, "What a reader checks". */
#include <math.h>

#include "kwsq_records.h"

enum {
    MAX_TENSORS = 1024,
    MAX_OPERATORS = 1024,
    MAX_DIMENSIONS = 65536,
    MAX_ALIGN_LOG2 = 9,
    MAX_COLUMNS = 131071,
    MAX_ELEMENTS = 1 << 26,
    MAX_ARENA = 1 << 28,
    ALIGNMENT = 16,
    GRAPH_HEADER_BYTES = 16
};
static const uint64_t MAX_WORK = (uint64_t)1 << 33;

/* First and last step at which a tensor is needed; UNUSED where it never is. */
struct lifetimes {
    uint16_t first[MAX_TENSORS], last[MAX_TENSORS];
};
enum { UNUSED = 0xFFFF };

static int refuse(struct kwsq_pack *pack, enum kwsq_section section, const char *error) {
    pack->section = section;
    pack->error = error;
    return 0;
}

static int fits(uint32_t first, uint32_t count, uint32_t room) { return first <= room && count <= room - first; }

/* ---- records ---- */

static int check_graph_counts(struct kwsq_pack *pack) {
    struct kwsq_span graph = pack->sections[KWSQ_GRAPH];
    if (kwsq_u16(graph.data + 6)) return refuse(pack, KWSQ_GRAPH, "graph: reserved field");
    if (pack->tensor_count > MAX_TENSORS || pack->operator_count > MAX_OPERATORS ||
        pack->layer_count > pack->operator_count || pack->dimension_count > MAX_DIMENSIONS ||
        pack->activation_bytes > MAX_ARENA)
        return refuse(pack, KWSQ_GRAPH, "graph: too many records or too large an arena");
    uint32_t bytes = GRAPH_HEADER_BYTES + KWSQ_TENSOR_BYTES * pack->tensor_count + 4 * pack->dimension_count +
                     KWSQ_LAYER_BYTES * pack->layer_count;
    if (bytes > graph.size) return refuse(pack, KWSQ_GRAPH, "graph: shorter than its records");
    pack->tensors = graph.data + GRAPH_HEADER_BYTES;
    pack->dimensions = pack->tensors + KWSQ_TENSOR_BYTES * pack->tensor_count;
    pack->layers = pack->dimensions + 4 * (size_t)pack->dimension_count;
    pack->operators = graph.data + bytes;
    return 1;
}

static int check_tensor(const struct kwsq_pack *pack, uint32_t index) {
    const uint8_t *p = pack->tensors + (size_t)KWSQ_TENSOR_BYTES * index;
    uint64_t size = 1;
    if (p[0] < KWSQ_INT8 || p[0] > KWSQ_FLOAT32 || p[1] > KWSQ_MAX_RANK || p[14] > 1 || p[15]) return 0;
    if (kwsq_u16(p + 2) + p[1] > pack->dimension_count) return 0;
    for (uint32_t i = 0; i < p[1]; i++) {
        size *= kwsq_u32(pack->dimensions + 4 * (size_t)(kwsq_u16(p + 2) + i));
        if (size == 0 || size > MAX_ELEMENTS) return 0;
    }
    struct kwsq_tensor t = kwsq_tensor_at(pack, index);
    if (t.type == KWSQ_FLOAT32) {
        if (t.scale != 0.0f || t.zero_point || t.is_constant) return 0;
    } else {
        int32_t low = t.type == KWSQ_UINT8 ? 0 : -128;
        if (t.is_constant && t.type != KWSQ_INT8) return 0;
        if (!(isfinite(t.scale) && t.scale > 0.0f) || t.zero_point < low || t.zero_point > low + 255) return 0;
    }
    uint32_t room = t.is_constant ? pack->sections[KWSQ_CONSTANTS].size : pack->activation_bytes;
    return fits(t.offset, t.size_bytes, room) && t.offset % ALIGNMENT == 0;
}

static int zero_bits(const uint8_t *weights, uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; i++)
        if (kwsq_bit(weights, i)) return 0;
    return 1;
}

static int check_weights(const struct kwsq_pack *pack, const struct kwsq_layer *l, uint64_t bytes) {
    const uint8_t *weights = pack->sections[KWSQ_WEIGHTS].data + l->weights_offset;
    int planes = l->layout == KWSQ_PLANES;
    uint64_t runs = planes ? l->bits : 1, used = planes ? l->columns : (uint64_t)l->columns * l->bits;
    for (uint64_t run = 0; run < l->rows * runs; run++)
        if (!zero_bits(weights, run * l->run_stride + used, (run + 1) * l->run_stride)) return 0;
    if (!zero_bits(weights, l->rows * l->row_stride, 8 * bytes)) return 0;
    if (l->scheme != KWSQ_CODEBOOK || l->level_count == 1u << l->bits) return 1;
    for (uint32_t row = 0; row < l->rows; row++)
        for (uint32_t column = 0; column < l->columns; column++)
            if (kwsq_field(l, weights, row, column) >= l->level_count) return 0;
    return 1;
}

static int check_codebook(const struct kwsq_pack *pack, const struct kwsq_layer *l) {
    struct kwsq_span codebooks = pack->sections[KWSQ_CODEBOOKS];
    if (l->scheme != KWSQ_CODEBOOK)
        return l->level_count == 0 && l->levels_offset == 0 && !(l->scheme == KWSQ_UNSIGNED && l->bits > 7);
    if (l->level_count < 2 || l->level_count > 1u << l->bits) return 0;
    if (!fits(l->levels_offset, l->level_count, codebooks.size)) return 0;
    const uint8_t *levels = codebooks.data + l->levels_offset;
    for (uint32_t i = 1; i < l->level_count; i++)
        if (kwsq_i8(levels[i - 1]) >= kwsq_i8(levels[i])) return 0;
    return 1;
}

static int check_channels(const struct kwsq_pack *pack, const struct kwsq_layer *l) {
    uint32_t channels = l->per_channel ? l->rows : 1;
    if (l->bias != KWSQ_NONE && !fits(l->bias, l->rows, pack->sections[KWSQ_BIASES].size / 4)) return 0;
    if (!fits(l->multiplier, channels, pack->sections[KWSQ_REQUANTIZATION].size / 5)) return 0;
    if (l->scale != KWSQ_NONE && !fits(l->scale, channels, pack->sections[KWSQ_SCALES].size / 4)) return 0;
    for (uint32_t i = 0; i < channels; i++) {
        int32_t shift = kwsq_shift(pack, l, i);
        if (kwsq_multiplier(pack, l, i) < 0 || shift < -31 || shift > 31) return 0;
    }
    return 1;
}

/* Tensors follow each other, or are those of an earlier layer; whatever is between them is zero. */
static int follows(const struct kwsq_pack *pack, uint32_t offset, uint32_t bytes, uint32_t *end) {
    if (offset + bytes <= *end) return 1;
    if (offset != (*end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) return 0;
    if (!zero_bits(pack->sections[KWSQ_WEIGHTS].data, 8 * (uint64_t)*end, 8 * (uint64_t)offset)) return 0;
    *end = offset + bytes;
    return 1;
}

static int check_layer(struct kwsq_pack *pack, uint32_t index, uint32_t *end) {
    const uint8_t *p = pack->layers + (size_t)KWSQ_LAYER_BYTES * index;
    struct kwsq_layer l = kwsq_layer_at(pack, index);
    if (l.bits < 1 || l.bits > 8 || l.scheme < KWSQ_SIGNED || l.scheme > KWSQ_CODEBOOK || l.layout < KWSQ_STREAM ||
        l.layout > KWSQ_PLANES || p[3] > MAX_ALIGN_LOG2 || l.per_channel > 1 || p[23])
        return refuse(pack, KWSQ_GRAPH, "graph: a layer's record");
    if (l.layout != pack->layers[2] || p[3] != pack->layers[3])
        return refuse(pack, KWSQ_GRAPH, "graph: layers of different layout or row alignment");
    if (l.rows == 0 || l.columns == 0 || l.columns > MAX_COLUMNS || (uint64_t)l.rows * l.columns > MAX_ELEMENTS)
        return refuse(pack, KWSQ_GRAPH, "graph: size of a layer");
    uint64_t bytes = (l.rows * l.row_stride + 7) / 8;
    uint32_t room = pack->sections[KWSQ_WEIGHTS].size;
    if (l.weights_offset % ALIGNMENT || l.weights_offset > room || bytes > room - l.weights_offset)
        return refuse(pack, KWSQ_GRAPH, "graph: a layer's weights lie outside their section");
    if (!check_codebook(pack, &l)) return refuse(pack, KWSQ_GRAPH, "graph: a layer's codebook");
    if (!check_channels(pack, &l)) return refuse(pack, KWSQ_GRAPH, "graph: a layer's biases, multipliers or scales");
    if (!follows(pack, l.weights_offset, (uint32_t)bytes, end))
        return refuse(pack, KWSQ_WEIGHTS, "weights: a tensor does not follow the one before it, or a gap is set");
    if (!check_weights(pack, &l, bytes)) return refuse(pack, KWSQ_WEIGHTS, "weights: a gap is set or an index too high");
    if (l.columns > pack->row_bytes) pack->row_bytes = l.columns;
    return 1;
}

/* ---- names ---- */

/* Returns the bytes of the character at `p`, 0 where it is not UTF-8 (RFC 3629). */
static uint32_t character_bytes(const uint8_t *p, uint32_t left) {
    uint32_t count = p[0] < 0x80 ? 1 : p[0] >= 0xC2 && p[0] < 0xE0 ? 2 : (p[0] & 0xF0) == 0xE0 ? 3 : 4;
    if ((p[0] >= 0x80 && p[0] < 0xC2) || p[0] > 0xF4 || count > left) return 0;
    for (uint32_t i = 1; i < count; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F)) return 0;
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) return 0;
    return count;
}

static int is_utf8(const uint8_t *p, uint32_t size) {
    while (size) {
        uint32_t count = character_bytes(p, size);
        if (count == 0) return 0;
        p += count;
        size -= count;
    }
    return 1;
}

static int check_partner(const struct kwsq_pack *pack, const struct kwsq_io *io) {
    if (io->partner == KWSQ_NO_PARTNER) return 1;
    if (io->is_output || io->partner >= pack->io_count) return 0;
    struct kwsq_io source = kwsq_io_at(pack, io->partner);
    if (!source.is_output || source.tensor >= pack->tensor_count) return 0;
    struct kwsq_tensor a = kwsq_tensor_at(pack, io->tensor), b = kwsq_tensor_at(pack, source.tensor);
    return a.type == b.type && a.rank == b.rank && memcmp(a.dims, b.dims, sizeof a.dims) == 0;
}

static int check_distinct(const struct kwsq_pack *pack, uint32_t index) {
    struct kwsq_io io = kwsq_io_at(pack, index);
    for (uint32_t i = 0; i < index; i++) {
        struct kwsq_io other = kwsq_io_at(pack, i);
        if (other.is_output != io.is_output) continue;
        if (other.tensor == io.tensor) return 0;
        if (other.name_length == io.name_length && memcmp(other.name, io.name, io.name_length) == 0) return 0;
    }
    return 1;
}

static int check_io(struct kwsq_pack *pack) {
    struct kwsq_span io = pack->sections[KWSQ_IO];
    if (io.size < 4 || kwsq_u32(io.data) > pack->tensor_count) return refuse(pack, KWSQ_IO, "io: number of entries");
    pack->io_count = kwsq_u32(io.data);
    uint32_t expected = 4 + KWSQ_IO_BYTES * pack->io_count;
    int outputs = 0;
    if (expected > io.size) return refuse(pack, KWSQ_IO, "io: shorter than its entries");
    for (uint32_t i = 0; i < pack->io_count; i++) {
        const uint8_t *p = io.data + 4 + (size_t)KWSQ_IO_BYTES * i;
        uint32_t length = kwsq_u16(p + 6);
        if (p[2] > 1 || p[3] || kwsq_u16(p) >= pack->tensor_count || p[2] < outputs)
            return refuse(pack, KWSQ_IO, "io: an entry's tensor, role or reserved field");
        if (length == 0 || kwsq_u32(p + 8) != expected || length > io.size - expected ||
            !is_utf8(io.data + expected, length))
            return refuse(pack, KWSQ_IO, "io: an entry's name");
        outputs |= p[2];
        expected += length;
        if (pack->tensors[KWSQ_TENSOR_BYTES * kwsq_u16(p) + 14])
            return refuse(pack, KWSQ_IO, "io: a constant at the boundary");
    }
    if (expected != io.size || !outputs) return refuse(pack, KWSQ_IO, "io: bytes after the names, or no output");
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io entry = kwsq_io_at(pack, i);
        if (!check_distinct(pack, i) || !check_partner(pack, &entry))
            return refuse(pack, KWSQ_IO, "io: a name or tensor given twice, or a state without its source");
    }
    return 1;
}

/* ---- order and arena ---- */

static void use(struct lifetimes *lives, uint32_t tensor, uint16_t step) {
    if (lives->first[tensor] == UNUSED) lives->first[tensor] = step;
    lives->last[tensor] = step;
}

/* Checks one operator's place in the order and notes the steps at which its tensors are needed. */
static int check_place(const struct kwsq_pack *pack, const struct kwsq_operator *op, uint16_t step, uint32_t *layer,
                       struct lifetimes *lives) {
    for (uint32_t i = 0; i < op->inputs + op->outputs; i++) {
        uint32_t tensor = kwsq_input(op, i);
        if (tensor >= pack->tensor_count) return 0;
        int constant = pack->tensors[KWSQ_TENSOR_BYTES * tensor + 14], known = lives->first[tensor] != UNUSED;
        if (i < op->inputs ? !(constant || known) : constant || known) return 0;
        if (!constant) use(lives, tensor, step);
    }
    if (!kwsq_has_layer(op)) return 1;
    return op->attributes > 0 && kwsq_attribute(op, 0) == (int32_t)*layer && (*layer)++ < pack->layer_count;
}

static int check_operators(struct kwsq_pack *pack, struct lifetimes *lives) {
    uint32_t position = (uint32_t)(pack->operators - pack->sections[KWSQ_GRAPH].data), layer = 0;
    for (uint32_t i = 0; i < pack->operator_count; i++) {
        struct kwsq_operator op;
        if (!kwsq_next_operator(pack, &position, &op)) return refuse(pack, KWSQ_GRAPH, "graph: an operator's record");
        if (!check_place(pack, &op, (uint16_t)(i + 1), &layer, lives))
            return refuse(pack, KWSQ_GRAPH, "graph: a tensor read before it is written or written twice, or no layer");
        if (!kwsq_check_operator(pack, &op, &pack->work))
            return refuse(pack, KWSQ_GRAPH, "graph: an operator's tensors and attributes do not fit");
        if (pack->work > MAX_WORK) return refuse(pack, KWSQ_GRAPH, "graph: more work than allowed");
    }
    if (position != pack->sections[KWSQ_GRAPH].size || layer != pack->layer_count)
        return refuse(pack, KWSQ_GRAPH, "graph: bytes after the operators, or layers nobody uses");
    return 1;
}

static int check_arena(struct kwsq_pack *pack, struct lifetimes *lives) {
    uint16_t end = (uint16_t)pack->operator_count;
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        if (lives->first[io.tensor] == UNUSED) return refuse(pack, KWSQ_GRAPH, "graph: an output nothing computes");
        if (io.is_output || io.partner != KWSQ_NO_PARTNER) lives->last[io.tensor] = end;
    }
    for (uint32_t i = 0; i < pack->tensor_count; i++) {
        if (lives->first[i] == UNUSED) continue;
        struct kwsq_tensor a = kwsq_tensor_at(pack, i);
        for (uint32_t k = 0; k < i; k++) {
            if (lives->first[k] == UNUSED || lives->first[k] > lives->last[i] || lives->first[i] > lives->last[k])
                continue;
            struct kwsq_tensor b = kwsq_tensor_at(pack, k);
            if (a.offset < b.offset + b.size_bytes && b.offset < a.offset + a.size_bytes)
                return refuse(pack, KWSQ_GRAPH, "graph: two tensors in one place");
        }
    }
    return 1;
}

int kwsq_check(struct kwsq_pack *pack) {
    struct lifetimes lives;
    memset(&lives, 0xFF, sizeof lives);
    if (!check_graph_counts(pack)) return 0;
    for (uint32_t i = 0; i < pack->tensor_count; i++)
        if (!check_tensor(pack, i)) return refuse(pack, KWSQ_GRAPH, "graph: a tensor's record");
    if (pack->sections[KWSQ_SCALES].size % 4) return refuse(pack, KWSQ_SCALES, "scales: no whole number of them");
    if (pack->sections[KWSQ_BIASES].size % 4) return refuse(pack, KWSQ_BIASES, "biases: no whole number of them");
    if (pack->sections[KWSQ_REQUANTIZATION].size % 5)
        return refuse(pack, KWSQ_REQUANTIZATION, "requantization: no whole number of channels");
    uint32_t end = 0;
    for (uint32_t i = 0; i < pack->layer_count; i++)
        if (!check_layer(pack, i, &end)) return 0;
    if (end != pack->sections[KWSQ_WEIGHTS].size) return refuse(pack, KWSQ_WEIGHTS, "weights: bytes nobody uses");
    if (!check_io(pack)) return 0;
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        if (!io.is_output) use(&lives, io.tensor, 0);
    }
    return check_operators(pack, &lives) && check_arena(pack, &lives);
}
