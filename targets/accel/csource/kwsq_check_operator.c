/* Whether an operator's tensors and attributes fit each other. */
#include <math.h>

#include "kwsq_records.h"

enum {
    MAX_ELEMENTS = 1 << 26,
    MAX_REACH = 65536,
    MAX_COUNT = 1 << 23,
    MAX_MATMUL_DEPTH = 33025,
    MAX_SOFTMAX = 511
};

/* An operator with its first tensors. */
struct use {
    const struct kwsq_pack *pack;
    const struct kwsq_operator *op;
    struct kwsq_tensor x, b, y; /* b: the second input, where there is one */
};

static int is_scaling(const struct use *u, uint32_t first) {
    int32_t shift = kwsq_attribute(u->op, first + 1);
    return kwsq_attribute(u->op, first) >= 0 && shift >= -31 && shift <= 31;
}

static int is_clamp(const struct use *u, uint32_t first) {
    int32_t low = kwsq_attribute(u->op, first), high = kwsq_attribute(u->op, first + 1);
    return -128 <= low && low <= high && high <= 127;
}

static int in_limits(const struct use *u, uint32_t first, uint32_t count, int32_t low) {
    for (uint32_t i = first; i < first + count; i++)
        if (kwsq_attribute(u->op, i) < low || kwsq_attribute(u->op, i) > MAX_REACH) return 0;
    return 1;
}

static int same_shape(const struct kwsq_tensor *a, const struct kwsq_tensor *b) {
    return a->rank == b->rank && memcmp(a->dims, b->dims, sizeof a->dims) == 0;
}

/* Whether the last `rank` dimensions of a and b broadcast to those of y, `skip` trailing ones left out. */
static int broadcasts(const struct kwsq_tensor *a, const struct kwsq_tensor *b, const struct kwsq_tensor *y,
                      uint32_t skip) {
    uint32_t rank = a->rank > b->rank ? a->rank : b->rank;
    if (y->rank != rank) return 0;
    for (uint32_t i = skip; i < rank; i++) {
        uint32_t m = i < a->rank ? a->dims[a->rank - 1 - i] : 1, n = i < b->rank ? b->dims[b->rank - 1 - i] : 1;
        if (m != n && m != 1 && n != 1) return 0;
        if (y->dims[rank - 1 - i] != (m > n ? m : n)) return 0;
    }
    return 1;
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static int window_fits(const struct use *u, const uint32_t reach[2], uint32_t stride, uint32_t before) {
    uint64_t extent = 1;
    for (uint32_t axis = 0; axis < 2; axis++) {
        uint64_t steps = (uint64_t)u->y.dims[1 + axis] - 1;
        uint64_t needed = steps * (uint32_t)kwsq_attribute(u->op, stride + axis) + reach[axis];
        extent *= larger(u->x.dims[1 + axis] + (uint64_t)kwsq_attribute(u->op, before + axis), needed);
        if (extent > MAX_ELEMENTS) return 0;
    }
    extent *= u->x.dims[0];
    return extent <= MAX_ELEMENTS && extent * u->x.dims[3] <= MAX_ELEMENTS;
}

static int has_scales(const struct use *u, const struct kwsq_layer *l) {
    for (uint32_t i = 0; i < (l->per_channel ? l->rows : 1); i++) {
        float scale = kwsq_weight_scale(u->pack, l, i, u->x.scale, u->y.scale);
        if (!(isfinite(scale) && scale > 0.0f)) return 0;
    }
    return 1;
}

static int window_layer(const struct use *u, const struct kwsq_layer *l) {
    uint32_t reach[2];
    if (u->x.rank != 4 || u->y.rank != 4 || u->x.dims[0] != u->y.dims[0]) return 0;
    if (!is_clamp(u, 1) || !in_limits(u, 3, 4, 1) || !in_limits(u, 7, 2, 0)) return 0;
    for (uint32_t axis = 0; axis < 2; axis++) {
        if (l->kernel[axis] < 1) return 0;
        uint64_t taps = (uint64_t)(l->kernel[axis] - 1) * (uint32_t)kwsq_attribute(u->op, 5 + axis) + 1;
        if (taps > MAX_REACH) return 0;
        reach[axis] = (uint32_t)taps;
    }
    return l->rows == u->y.dims[3] && has_scales(u, l) && window_fits(u, reach, 3, 7);
}

static int conv(const struct use *u, const struct kwsq_layer *l) {
    if (!window_layer(u, l)) return 0;
    uint64_t taps = (uint64_t)l->kernel[0] * l->kernel[1], depth = l->columns / taps;
    if (depth == 0 || l->columns % taps || u->x.dims[3] % depth) return 0;
    uint64_t groups = u->x.dims[3] / depth, positions = u->y.size / u->y.dims[3];
    if (groups == 0 || u->y.dims[3] % groups) return 0;
    /* Each factor is below 2**27, so that two of them cannot overflow. */
    return positions * l->columns <= MAX_ELEMENTS && positions * l->columns * groups <= MAX_ELEMENTS;
}

static int depthwise(const struct use *u, const struct kwsq_layer *l) {
    if (!window_layer(u, l)) return 0;
    return l->columns == (uint64_t)l->kernel[0] * l->kernel[1] && u->y.dims[3] % u->x.dims[3] == 0;
}

static int dense(const struct use *u, const struct kwsq_layer *l) {
    uint32_t rank = u->x.rank;
    if (rank == 0 || u->y.rank != rank || l->kernel[0] != 1 || l->kernel[1] != 1 || !is_clamp(u, 1)) return 0;
    if (memcmp(u->x.dims, u->y.dims, 4 * (rank - 1)) || u->x.dims[rank - 1] != l->columns) return 0;
    return u->y.dims[rank - 1] == l->rows && has_scales(u, l);
}

static int matmul(const struct use *u) {
    const struct kwsq_tensor *a = &u->x, *b = &u->b, *y = &u->y;
    if (a->rank < 2 || b->rank < 2 || !broadcasts(a, b, y, 2)) return 0;
    uint32_t depth = a->dims[a->rank - 1];
    if (depth != b->dims[b->rank - 2] || depth > MAX_MATMUL_DEPTH) return 0;
    return y->dims[y->rank - 2] == a->dims[a->rank - 2] && y->dims[y->rank - 1] == b->dims[b->rank - 1] &&
           is_scaling(u, 0);
}

static int pool(const struct use *u) {
    uint32_t reach[2];
    if (u->x.rank != 4 || u->y.rank != 4 || u->x.dims[0] != u->y.dims[0] || u->x.dims[3] != u->y.dims[3]) return 0;
    if (!in_limits(u, 0, 4, 1) || !in_limits(u, 4, 2, 0)) return 0;
    for (uint32_t axis = 0; axis < 2; axis++) {
        int64_t kernel = kwsq_attribute(u->op, axis), before = kwsq_attribute(u->op, 4 + axis);
        int64_t last = ((int64_t)u->y.dims[1 + axis] - 1) * kwsq_attribute(u->op, 2 + axis) - before;
        if (before >= kernel || last >= (int64_t)u->x.dims[1 + axis]) return 0;
        reach[axis] = (uint32_t)kernel;
    }
    return (uint64_t)reach[0] * reach[1] <= MAX_COUNT && window_fits(u, reach, 2, 4);
}

/* Whether a reduction's mask names axes that exist and leaves as many elements as y has. */
static int reduces(const struct use *u) {
    int32_t mask = kwsq_attribute(u->op, 0);
    uint32_t kept = 1;
    if (mask < 0 || mask >= 1 << u->x.rank) return 0;
    for (uint32_t i = 0; i < u->x.rank; i++)
        if (!(mask >> i & 1)) kept *= u->x.dims[i];
    return kept == u->y.size;
}

static int pad(const struct use *u) {
    int32_t value = kwsq_attribute(u->op, 0);
    if (u->y.rank != u->x.rank || value < -128 || value > 127) return 0;
    for (uint32_t i = 0; i < u->x.rank; i++) {
        int64_t added = (int64_t)u->y.dims[i] - u->x.dims[i], before = kwsq_attribute(u->op, 1 + i);
        if (before < 0 || before > added) return 0;
    }
    return 1;
}

static int transpose(const struct use *u) {
    uint32_t seen = 0;
    if (u->y.rank != u->x.rank) return 0;
    for (uint32_t i = 0; i < u->x.rank; i++) {
        int32_t axis = kwsq_attribute(u->op, i);
        if (axis < 0 || axis >= (int32_t)u->x.rank || u->y.dims[i] != u->x.dims[axis]) return 0;
        seen |= 1u << axis;
    }
    return seen == (1u << u->x.rank) - 1;
}

static int slice(const struct use *u) {
    if (u->y.rank != u->x.rank) return 0;
    for (uint32_t i = 0; i < u->x.rank; i++) {
        int64_t begin = kwsq_attribute(u->op, i), step = kwsq_attribute(u->op, u->x.rank + i);
        if (begin < 0 || step < 1 || begin + ((int64_t)u->y.dims[i] - 1) * step >= (int64_t)u->x.dims[i]) return 0;
    }
    return 1;
}

/* Whether `count` tensors from position `first` of the operator's list, along one axis, make up `whole`. */
static int along_axis(const struct use *u, const struct kwsq_tensor *whole, uint32_t first, uint32_t count) {
    int32_t axis = kwsq_attribute(u->op, 0);
    uint64_t total = 0;
    if (axis < 0 || axis >= (int32_t)whole->rank) return 0;
    for (uint32_t i = first; i < first + count; i++) {
        struct kwsq_tensor part = kwsq_tensor_at(u->pack, kwsq_input(u->op, i));
        total += part.dims[axis];
        part.dims[axis] = whole->dims[axis];
        if (!same_shape(&part, whole)) return 0;
    }
    return total == whole->dims[axis];
}

static int types_fit(const struct use *u) {
    int x_float = u->x.type == KWSQ_FLOAT32, y_float = u->y.type == KWSQ_FLOAT32;
    switch (u->op->code) {
        case KWSQ_RESHAPE:
        case KWSQ_TRANSPOSE: return u->x.type == u->y.type;
        case KWSQ_REQUANTIZE: return !x_float && !y_float;
        case KWSQ_QUANTIZE: return x_float && !y_float;
        case KWSQ_DEQUANTIZE: return !x_float && y_float;
        default: break;
    }
    for (uint32_t i = 0; i < u->op->inputs + u->op->outputs; i++)
        if (kwsq_tensor_at(u->pack, kwsq_input(u->op, i)).type != KWSQ_INT8) return 0;
    return 1;
}

/* Inputs, outputs and attributes by code; 0xFF: one or more, or as many as the rank says. */
static const uint8_t COUNTS[27][3] = {
    {0, 0, 0},    {1, 1, 9}, {1, 1, 9}, {1, 1, 3}, {2, 1, 2},    {2, 1, 8}, {2, 1, 8},    {2, 1, 8},    {2, 1, 4},
    {2, 1, 0},    {2, 1, 0}, {2, 1, 4}, {1, 1, 2}, {1, 1, 2},    {1, 1, 6}, {1, 1, 6},    {1, 1, 3},    {1, 1, 1},
    {1, 1, 0xFF}, {1, 1, 0}, {1, 1, 0xFF}, {0xFF, 1, 1}, {1, 1, 0xFF}, {1, 0xFF, 1}, {1, 1, 2}, {1, 1, 0}, {1, 1, 0}};

static int counts_fit(const struct kwsq_operator *op, uint32_t rank) {
    if (op->code < KWSQ_CONV || op->code > KWSQ_DEQUANTIZE) return 0;
    const uint8_t *counts = COUNTS[op->code];
    uint32_t attributes = counts[2];
    if (op->code == KWSQ_PAD) attributes = 1 + rank;
    if (op->code == KWSQ_TRANSPOSE) attributes = rank;
    if (op->code == KWSQ_SLICE) attributes = 2 * rank;
    if (op->inputs == 0 || (counts[0] != 0xFF && op->inputs != counts[0])) return 0;
    if (op->outputs == 0 || (counts[1] != 0xFF && op->outputs != counts[1])) return 0;
    return op->attributes == attributes;
}

static int fits_each_other(const struct use *u) {
    const struct kwsq_operator *op = u->op;
    struct kwsq_layer l;
    memset(&l, 0, sizeof l);
    if (kwsq_has_layer(op)) l = kwsq_layer_at(u->pack, (uint32_t)kwsq_attribute(op, 0));
    switch (op->code) {
        case KWSQ_CONV: return conv(u, &l);
        case KWSQ_DEPTHWISE: return depthwise(u, &l);
        case KWSQ_DENSE: return dense(u, &l);
        case KWSQ_MATMUL: return matmul(u);
        case KWSQ_ADD:
        case KWSQ_SUB:
        case KWSQ_SQUARED_DIFFERENCE:
            return is_scaling(u, 0) && is_scaling(u, 2) && is_scaling(u, 4) && is_clamp(u, 6) &&
                   broadcasts(&u->x, &u->b, &u->y, 0);
        case KWSQ_MUL: return is_scaling(u, 0) && is_clamp(u, 2) && broadcasts(&u->x, &u->b, &u->y, 0);
        case KWSQ_MAXIMUM:
        case KWSQ_MINIMUM: return broadcasts(&u->x, &u->b, &u->y, 0);
        case KWSQ_PRELU:
            return is_scaling(u, 0) && is_scaling(u, 2) && same_shape(&u->x, &u->y) &&
                   broadcasts(&u->x, &u->b, &u->y, 0);
        case KWSQ_TABLE: {
            int64_t room = u->pack->sections[KWSQ_CONSTANTS].size, offset = kwsq_attribute(op, 0);
            int32_t lowest = kwsq_attribute(op, 1);
            return offset >= 0 && offset + KWSQ_TABLE_ENTRIES <= room && lowest >= -128 && lowest <= 127 &&
                   same_shape(&u->x, &u->y);
        }
        case KWSQ_SOFTMAX:
            return u->x.rank > 0 && u->x.dims[u->x.rank - 1] <= MAX_SOFTMAX && is_scaling(u, 0) &&
                   kwsq_attribute(op, 1) >= 0 && same_shape(&u->x, &u->y);
        case KWSQ_AVERAGE_POOL:
        case KWSQ_MAX_POOL: return pool(u);
        case KWSQ_MEAN: return reduces(u) && u->x.size / u->y.size <= MAX_COUNT && is_scaling(u, 1);
        case KWSQ_REDUCE_MAX: return reduces(u);
        case KWSQ_PAD: return pad(u);
        case KWSQ_RESHAPE: return u->x.size == u->y.size;
        case KWSQ_TRANSPOSE: return transpose(u);
        case KWSQ_CONCAT: return along_axis(u, &u->y, 0, op->inputs);
        case KWSQ_SPLIT: return along_axis(u, &u->x, op->inputs, op->outputs);
        case KWSQ_SLICE: return slice(u);
        case KWSQ_REQUANTIZE: return is_scaling(u, 0) && same_shape(&u->x, &u->y);
        default: return same_shape(&u->x, &u->y); /* QUANTIZE, DEQUANTIZE */
    }
}

static uint64_t work_of(const struct use *u) {
    const struct kwsq_operator *op = u->op;
    uint64_t total = 0;
    if (kwsq_has_layer(op)) return (uint64_t)u->y.size * kwsq_layer_at(u->pack, (uint32_t)kwsq_attribute(op, 0)).columns;
    if (op->code == KWSQ_MATMUL) return (uint64_t)u->y.size * u->x.dims[u->x.rank - 1];
    if (op->code == KWSQ_AVERAGE_POOL || op->code == KWSQ_MAX_POOL)
        return (uint64_t)u->y.size * (uint32_t)kwsq_attribute(op, 0) * (uint32_t)kwsq_attribute(op, 1);
    for (uint32_t i = 0; i < op->inputs + op->outputs; i++) total += kwsq_tensor_at(u->pack, kwsq_input(op, i)).size;
    return total;
}

int kwsq_check_operator(const struct kwsq_pack *pack, const struct kwsq_operator *op, uint64_t *work) {
    struct use u;
    if (op->inputs == 0 || op->outputs == 0) return 0;
    u.pack = pack;
    u.op = op;
    u.x = kwsq_tensor_at(pack, kwsq_input(op, 0));
    u.b = kwsq_tensor_at(pack, kwsq_input(op, op->inputs > 1 ? 1 : 0));
    u.y = kwsq_tensor_at(pack, kwsq_output(op, 0));
    if (!counts_fit(op, u.x.rank) || !types_fit(&u) || !fits_each_other(&u)) return 0;
    *work += work_of(&u);
    return 1;
}
