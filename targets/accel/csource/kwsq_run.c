/* Runs a pack: its layers, whose weights are decoded row by row, the kernels of all other operators, and states from one
 * run to the next. Equations are those of docs/quantization.md. */
#include "kwsq_records.h"

enum { MOST_NUMBERS = 2 * KWSQ_MAX_RANK }; /* of any operator: those of a slice; kwsq_check_operator refuses more */

/* An operator about to run. */
struct run {
    const struct kwsq_pack *pack;
    uint8_t *arena;
    const struct kwsq_operator *op;
    struct kwsq_tensor x, b, y; /* b: the second input, where there is one */
};

static const uint8_t *contents(const struct run *r, const struct kwsq_tensor *t) {
    return t->is_constant ? r->pack->sections[KWSQ_CONSTANTS].data + t->offset : r->arena + t->offset;
}

static uint8_t *result(const struct run *r) { return r->arena + r->y.offset; }

static int32_t code(const struct run *r, const struct kwsq_tensor *t, size_t i) { return kwsq_i8(contents(r, t)[i]); }

static int32_t attribute(const struct run *r, uint32_t i) { return kwsq_attribute(r->op, i); }

/* ---- layers ---- */

/* Decodes one row of weights behind the activations. */
static const uint8_t *decoded_row(const struct run *r, const struct kwsq_layer *l, uint32_t row) {
    const uint8_t *weights = r->pack->sections[KWSQ_WEIGHTS].data + l->weights_offset;
    const uint8_t *levels = r->pack->sections[KWSQ_CODEBOOKS].data;
    uint8_t *out = r->arena + r->pack->activation_bytes;
    uint32_t sign = 1u << (l->bits - 1);
    for (uint32_t i = 0; i < l->columns; i++) {
        uint32_t field = kwsq_field(l, weights, row, i);
        if (l->scheme == KWSQ_CODEBOOK) field = levels[l->levels_offset + field];
        if (l->scheme == KWSQ_SIGNED) field = (field ^ sign) - sign;
        out[i] = (uint8_t)(field & 255u);
    }
    return out;
}

static int64_t bias(const struct run *r, const struct kwsq_layer *l, uint32_t row) {
    return l->bias == KWSQ_NONE ? 0 : kwsq_i32(r->pack->sections[KWSQ_BIASES].data + 4 * ((size_t)l->bias + row));
}

/* Sums the taps of one output position; those outside the image are real zeros. */
static int64_t window_sum(const struct run *r, const struct kwsq_layer *l, const uint8_t *row, const int64_t at[3],
                          uint32_t first, uint32_t depth) {
    const struct kwsq_tensor *x = &r->x;
    int64_t total = 0;
    for (uint32_t i = 0; i < l->kernel[0]; i++) {
        int64_t h = at[1] * attribute(r, 3) - attribute(r, 7) + (int64_t)i * attribute(r, 5);
        for (uint32_t j = 0; j < l->kernel[1] && h >= 0 && h < (int64_t)x->dims[1]; j++) {
            int64_t w = at[2] * attribute(r, 4) - attribute(r, 8) + (int64_t)j * attribute(r, 6);
            if (w < 0 || w >= (int64_t)x->dims[2]) continue;
            size_t pixel = (((size_t)at[0] * x->dims[1] + (size_t)h) * x->dims[2] + (size_t)w) * x->dims[3] + first;
            const uint8_t *taps = row + ((size_t)i * l->kernel[1] + j) * depth;
            for (uint32_t k = 0; k < depth; k++)
                total += (int64_t)(code(r, x, pixel + k) - x->zero_point) * kwsq_i8(taps[k]);
        }
    }
    return total;
}

static void window_layer(const struct run *r, const struct kwsq_layer *l) {
    const struct kwsq_tensor *y = &r->y;
    uint32_t depthwise = r->op->code == KWSQ_DEPTHWISE;
    uint32_t depth = depthwise ? 1 : l->columns / (l->kernel[0] * l->kernel[1]);
    uint32_t per_group = depthwise ? y->dims[3] / r->x.dims[3] : y->dims[3] / (r->x.dims[3] / depth);
    size_t positions = y->size / y->dims[3];
    for (uint32_t o = 0; o < l->rows; o++) {
        const uint8_t *row = decoded_row(r, l, o);
        int32_t multiplier = kwsq_multiplier(r->pack, l, o), shift = kwsq_shift(r->pack, l, o);
        for (size_t i = 0; i < positions; i++) {
            int64_t at[3] = {(int64_t)(i / ((size_t)y->dims[1] * y->dims[2])),
                             (int64_t)(i / y->dims[2] % y->dims[1]), (int64_t)(i % y->dims[2])};
            int64_t sum = window_sum(r, l, row, at, o / per_group * depth, depth) + bias(r, l, o);
            int64_t steps = (int64_t)kwsq_scaled(kwsq_wrapped(sum), multiplier, shift) + y->zero_point;
            result(r)[i * y->dims[3] + o] = kwsq_as_byte(kwsq_clamp(steps, attribute(r, 1), attribute(r, 2)));
        }
    }
}

/* Equation (15b): one rounding of a binary64 product. */
static void dense(const struct run *r, const struct kwsq_layer *l) {
    const struct kwsq_tensor *x = &r->x, *y = &r->y;
    int32_t low = attribute(r, 1) - y->zero_point, high = attribute(r, 2) - y->zero_point;
    for (uint32_t o = 0; o < l->rows; o++) {
        const uint8_t *row = decoded_row(r, l, o);
        double scale = (double)x->scale * (double)kwsq_weight_scale(r->pack, l, o, x->scale, y->scale);
        scale /= (double)y->scale;
        for (size_t n = 0; n < y->size / l->rows; n++) {
            int64_t sum = bias(r, l, o);
            for (uint32_t k = 0; k < l->columns; k++)
                sum += (int64_t)(code(r, x, n * l->columns + k) - x->zero_point) * kwsq_i8(row[k]);
            double steps = (double)kwsq_wrapped(sum) * scale;
            /* Clamped a step early, so that the conversion to an integer is defined. */
            steps = steps < low - 1.0 ? low - 1.0 : steps > high + 1.0 ? high + 1.0 : steps;
            result(r)[n * l->rows + o] = kwsq_as_byte(kwsq_clamp(kwsq_rounded(steps), low, high) + y->zero_point);
        }
    }
}

static void concat(const struct run *r) {
    uint32_t done = 0, axis = (uint32_t)attribute(r, 0);
    for (uint32_t i = 0; i < r->op->inputs; i++) {
        struct kwsq_tensor part = kwsq_tensor_at(r->pack, kwsq_input(r->op, i));
        kwsq_join(&r->y, result(r), &part, contents(r, &part), axis, done);
        done += part.dims[axis];
    }
}

static void split(const struct run *r) {
    uint32_t done = 0, axis = (uint32_t)attribute(r, 0);
    for (uint32_t i = 0; i < r->op->outputs; i++) {
        struct kwsq_tensor part = kwsq_tensor_at(r->pack, kwsq_output(r->op, i));
        kwsq_part(&r->x, contents(r, &r->x), &part, r->arena + part.offset, axis, done);
        done += part.dims[axis];
    }
}

static enum kwsq_status run_kernel(const struct kwsq_call *c) {
    switch (c->code) {
        case KWSQ_MATMUL: kwsq_matmul(c); return KWSQ_OK;
        case KWSQ_TABLE: return kwsq_table(c);
        case KWSQ_SOFTMAX: kwsq_softmax(c); return KWSQ_OK;
        case KWSQ_AVERAGE_POOL:
        case KWSQ_MAX_POOL: kwsq_pool(c); return KWSQ_OK;
        case KWSQ_MEAN:
        case KWSQ_REDUCE_MAX: kwsq_reduce(c); return KWSQ_OK;
        case KWSQ_PAD: kwsq_pad(c); return KWSQ_OK;
        case KWSQ_RESHAPE: kwsq_reshape(c); return KWSQ_OK;
        case KWSQ_TRANSPOSE: kwsq_transpose(c); return KWSQ_OK;
        case KWSQ_SLICE: kwsq_slice(c); return KWSQ_OK;
        case KWSQ_REQUANTIZE: kwsq_requantize(c); return KWSQ_OK;
        case KWSQ_QUANTIZE: return kwsq_quantize(c);
        case KWSQ_DEQUANTIZE: kwsq_dequantize(c); return KWSQ_OK;
        default: kwsq_elementwise(c); return KWSQ_OK;
    }
}

static enum kwsq_status run_operator(const struct run *r) {
    struct kwsq_layer l;
    int32_t numbers[MOST_NUMBERS];
    struct kwsq_call c = {(enum kwsq_opcode)r->op->code, numbers, NULL, &r->x, &r->b, &r->y,
                          contents(r, &r->x), contents(r, &r->b), result(r)};
    switch (r->op->code) {
        case KWSQ_CONV:
        case KWSQ_DEPTHWISE:
        case KWSQ_DENSE:
            l = kwsq_layer_at(r->pack, (uint32_t)attribute(r, 0));
            if (r->op->code == KWSQ_DENSE) dense(r, &l);
            else window_layer(r, &l);
            return KWSQ_OK;
        case KWSQ_CONCAT: concat(r); return KWSQ_OK;
        case KWSQ_SPLIT: split(r); return KWSQ_OK;
        default: break;
    }
    for (uint32_t i = 0; i < r->op->attributes; i++) numbers[i] = attribute(r, i);
    if (c.code == KWSQ_TABLE) { /* its first attribute says where the table is */
        c.table = r->pack->sections[KWSQ_CONSTANTS].data + numbers[0];
        c.numbers = numbers + 1;
    }
    return run_kernel(&c);
}

enum kwsq_status kwsq_run(const struct kwsq_pack *pack, uint8_t *arena) {
    uint32_t position = (uint32_t)(pack->operators - pack->sections[KWSQ_GRAPH].data);
    for (uint32_t i = 0; i < pack->operator_count; i++) {
        struct kwsq_operator op;
        struct run r;
        if (!kwsq_next_operator(pack, &position, &op)) return KWSQ_DAMAGED;
        r.pack = pack;
        r.arena = arena;
        r.op = &op;
        r.x = kwsq_tensor_at(pack, kwsq_input(&op, 0));
        r.b = kwsq_tensor_at(pack, kwsq_input(&op, op.inputs > 1 ? 1 : 0));
        r.y = kwsq_tensor_at(pack, kwsq_output(&op, 0));
        enum kwsq_status status = run_operator(&r);
        if (status != KWSQ_OK) return status;
    }
    return KWSQ_OK;
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
