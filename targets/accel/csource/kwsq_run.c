/* The operators: exact integers, the same bits on every machine. Equations are those of docs/quantization.md. */
#include <math.h>

#include "kwsq_records.h"

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

/* ---- fixed point ---- */

/* Floor division by a power of two, without relying on how C shifts negative numbers. */
static int64_t shifted_right(int64_t value, int n) { return value >= 0 ? value >> n : ~(~value >> n); }

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

static uint8_t as_byte(int64_t value) { return (uint8_t)(value & 255); }

/* Equation (5). */
static int32_t doubling_high_mul(int64_t a, int64_t b) {
    int64_t product = shifted_right(a * b + ((int64_t)1 << 30), 31);
    return (int32_t)clamp(product, -2147483647 - 1, 2147483647);
}

/* Equation (6). */
static int64_t divided_by_pot(int64_t value, int n) {
    if (n == 0) return value;
    return shifted_right(value + ((int64_t)1 << (n - 1)) - (value < 0), n);
}

/* Equation (7); a left shift beyond 32 bits wraps. */
static int32_t scaled(int32_t value, int32_t multiplier, int32_t shift) {
    if (shift > 0) value = kwsq_wrap((uint32_t)value << shift);
    return (int32_t)divided_by_pot(doubling_high_mul(value, multiplier), shift < 0 ? -shift : 0);
}

static int32_t wrapped(int64_t value) { return kwsq_wrap((uint32_t)((uint64_t)value & 0xFFFFFFFFu)); }

/* Rounds half away from zero; the value must be within 2**52. */
static int64_t rounded(double value) {
    int64_t whole = (int64_t)value;
    double rest = value - (double)whole;
    return whole + (rest >= 0.5) - (rest <= -0.5);
}

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
            int64_t steps = (int64_t)scaled(wrapped(sum), multiplier, shift) + y->zero_point;
            result(r)[i * y->dims[3] + o] = as_byte(clamp(steps, attribute(r, 1), attribute(r, 2)));
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
            double steps = (double)wrapped(sum) * scale;
            /* Clamped a step early, so that the conversion to an integer is defined. */
            steps = steps < low - 1.0 ? low - 1.0 : steps > high + 1.0 ? high + 1.0 : steps;
            result(r)[n * l->rows + o] = as_byte(clamp(rounded(steps), low, high) + y->zero_point);
        }
    }
}

/* ---- two operands ---- */

/* Returns the element of `t` that broadcasts to element `index` of a tensor with y's leading dimensions. */
static size_t broadcast_index(const struct kwsq_tensor *y, const struct kwsq_tensor *t, size_t index, uint32_t skip) {
    size_t found = 0, step = 1;
    for (uint32_t i = skip; i < y->rank; i++) {
        uint32_t n = y->dims[y->rank - 1 - i];
        if (i < t->rank) {
            uint32_t m = t->dims[t->rank - 1 - i];
            if (m > 1) found += index % n * step;
            step *= m;
        }
        index /= n;
    }
    return found;
}

static void matmul(const struct run *r) {
    const struct kwsq_tensor *a = &r->x, *b = &r->b, *y = &r->y;
    size_t m = y->dims[y->rank - 2], n = y->dims[y->rank - 1], depth = a->dims[a->rank - 1];
    for (size_t i = 0; i < y->size; i++) {
        size_t matrix = i / (m * n), row = i / n % m, column = i % n;
        size_t left = broadcast_index(y, a, matrix, 2) * m * depth + row * depth;
        size_t right = broadcast_index(y, b, matrix, 2) * depth * n + column;
        int64_t sum = 0;
        for (size_t k = 0; k < depth; k++)
            sum += (int64_t)(code(r, a, left + k) - a->zero_point) * (code(r, b, right + k * n) - b->zero_point);
        int64_t steps = (int64_t)scaled(wrapped(sum), attribute(r, 0), attribute(r, 1)) + y->zero_point;
        result(r)[i] = as_byte(clamp(steps, -128, 127));
    }
}

static int32_t pair(const struct run *r, int32_t p, int32_t q) {
    if (r->op->code == KWSQ_MAXIMUM) return p > q ? p : q;
    if (r->op->code == KWSQ_MINIMUM) return p < q ? p : q;
    p -= r->x.zero_point;
    q -= r->b.zero_point;
    uint32_t first = 0;
    int32_t raw = p * q;
    if (r->op->code == KWSQ_PRELU) {
        int64_t steps = p >= 0 ? scaled(p, attribute(r, 0), attribute(r, 1)) : scaled(raw, attribute(r, 2), attribute(r, 3));
        return (int32_t)clamp(steps + r->y.zero_point, -128, 127);
    }
    if (r->op->code != KWSQ_MUL) {
        int32_t unit = r->op->code == KWSQ_SQUARED_DIFFERENCE ? 1 << 7 : 1 << 20;
        int64_t left = scaled(p * unit, attribute(r, 0), attribute(r, 1));
        int64_t right = scaled(q * unit, attribute(r, 2), attribute(r, 3));
        raw = wrapped(r->op->code == KWSQ_ADD ? left + right : left - right);
        if (r->op->code == KWSQ_SQUARED_DIFFERENCE) raw = wrapped((int64_t)raw * raw);
        first = 4;
    }
    int64_t steps = (int64_t)scaled(raw, attribute(r, first), attribute(r, first + 1)) + r->y.zero_point;
    return (int32_t)clamp(steps, attribute(r, first + 2), attribute(r, first + 3));
}

static void elementwise(const struct run *r) {
    for (size_t i = 0; i < r->y.size; i++) {
        int32_t p = code(r, &r->x, broadcast_index(&r->y, &r->x, i, 0));
        int32_t q = code(r, &r->b, broadcast_index(&r->y, &r->b, i, 0));
        result(r)[i] = as_byte(pair(r, p, q));
    }
}

/* ---- one operand ---- */

static enum kwsq_status table(const struct run *r) {
    const uint8_t *entries = r->pack->sections[KWSQ_CONSTANTS].data + attribute(r, 0);
    for (size_t i = 0; i < r->y.size; i++) {
        int32_t q = code(r, &r->x, i);
        if (q < attribute(r, 1)) return KWSQ_OUT_OF_RANGE;
        result(r)[i] = entries[q + 128];
    }
    return KWSQ_OK;
}

/* Equation (28): exp(a) for a <= 0 in Q5.26, as Q0.31. */
static int32_t exp_on_negative(int32_t a) {
    static const int32_t powers[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int64_t quarter = 1 << 24, minus_eighth = 1895147668;
    if (a == 0) return 2147483647;
    int64_t fraction = (int64_t)((uint32_t)a & 0xFFFFFFu) - quarter, rest = fraction - a;
    int64_t x = fraction * 32 + (1 << 28), x2 = doubling_high_mul(x, x);
    int64_t x3 = doubling_high_mul(x2, x), x4 = doubling_high_mul(x2, x2);
    int64_t tail = divided_by_pot(doubling_high_mul(divided_by_pot(x4, 2) + x3, 715827883) + x2, 1);
    int64_t value = minus_eighth + doubling_high_mul(minus_eighth, x + tail);
    for (int i = 0; i < 7; i++)
        if (rest >> (24 + i) & 1) value = doubling_high_mul(value, powers[i]);
    return (int32_t)value;
}

/* Equation (29): 1 / (1 + x) for x in Q0.31. */
static int64_t one_over_one_plus(int64_t x) {
    const int64_t low = -2147483647 - 1, high = 2147483647, one = 1 << 29;
    int64_t half = (x + high + 1) / 2, y = 1515870810 + (int64_t)doubling_high_mul(half, -1010580540);
    for (int i = 0; i < 3; i++) {
        int64_t error = one - doubling_high_mul(half, y);
        y += clamp((int64_t)doubling_high_mul(y, error) * 4, low, high);
    }
    return clamp(y * 2, low, high);
}

/* exp of the difference d >= 0 to the largest code, equation (27). */
static int32_t exp_of_difference(const struct run *r, int32_t d) {
    int32_t left_shift = attribute(r, 1);
    int64_t lowest = ((int64_t)31 << 26) >> left_shift;
    if (d > lowest) return 0;
    return exp_on_negative(doubling_high_mul(-((int64_t)d << left_shift), attribute(r, 0)));
}

static void softmax(const struct run *r) {
    size_t count = r->x.dims[r->x.rank - 1];
    int64_t lowest = ((int64_t)31 << 26) >> attribute(r, 1);
    for (size_t first = 0; first < r->x.size; first += count) {
        int32_t largest = -128, headroom = 32;
        int64_t total = 0;
        for (size_t i = first; i < first + count; i++)
            if (code(r, &r->x, i) > largest) largest = code(r, &r->x, i);
        for (size_t i = first; i < first + count; i++)
            total += divided_by_pot(exp_of_difference(r, largest - code(r, &r->x, i)), 12);
        for (int64_t rest = total; rest > 0; rest /= 2) headroom--;
        int64_t reciprocal = one_over_one_plus(total * ((int64_t)1 << headroom) - ((int64_t)1 << 31));
        for (size_t i = first; i < first + count; i++) {
            int32_t d = largest - code(r, &r->x, i);
            int64_t product = doubling_high_mul(reciprocal, exp_of_difference(r, d));
            int64_t q = divided_by_pot(product, 12 - headroom + 31 - 8) - 128;
            result(r)[i] = as_byte(d > lowest ? -128 : clamp(q, -128, 127));
        }
    }
}

static int32_t typed_code(const struct run *r, size_t i) {
    return r->x.type == KWSQ_UINT8 ? contents(r, &r->x)[i] : code(r, &r->x, i);
}

static int64_t saturated(const struct run *r, int64_t value) {
    return r->y.type == KWSQ_UINT8 ? clamp(value, 0, 255) : clamp(value, -128, 127);
}

static void requantize(const struct run *r) {
    for (size_t i = 0; i < r->y.size; i++) {
        int32_t steps = scaled(typed_code(r, i) - r->x.zero_point, attribute(r, 0), attribute(r, 1));
        result(r)[i] = as_byte(saturated(r, (int64_t)steps + r->y.zero_point));
    }
}

static enum kwsq_status quantize(const struct run *r) {
    for (size_t i = 0; i < r->y.size; i++) {
        float value;
        memcpy(&value, contents(r, &r->x) + 4 * i, 4);
        value /= r->y.scale;
        if (isnan(value)) return KWSQ_OUT_OF_RANGE;
        double steps = value < -1e6f ? -1e6 : value > 1e6f ? 1e6 : (double)value; /* far outside any 8-bit grid */
        result(r)[i] = as_byte(saturated(r, rounded(steps) + r->y.zero_point));
    }
    return KWSQ_OK;
}

static void dequantize(const struct run *r) {
    for (size_t i = 0; i < r->y.size; i++) {
        float value = (float)(typed_code(r, i) - r->x.zero_point) * r->x.scale;
        memcpy(result(r) + 4 * i, &value, 4);
    }
}

/* ---- windows and reductions ---- */

static void pool(const struct run *r) {
    const struct kwsq_tensor *x = &r->x, *y = &r->y;
    for (size_t i = 0; i < y->size; i++) {
        size_t c = i % y->dims[3], w = i / y->dims[3] % y->dims[2], h = i / y->dims[3] / y->dims[2] % y->dims[1];
        size_t n = i / y->dims[3] / y->dims[2] / y->dims[1];
        int64_t top = (int64_t)h * attribute(r, 2) - attribute(r, 4), left = (int64_t)w * attribute(r, 3) - attribute(r, 5);
        int64_t bottom = clamp(top + attribute(r, 0), 0, x->dims[1]), right = clamp(left + attribute(r, 1), 0, x->dims[2]);
        int64_t total = 0, count = 0, largest = -128;
        for (int64_t p = top < 0 ? 0 : top; p < bottom; p++)
            for (int64_t q = left < 0 ? 0 : left; q < right; q++) {
                int32_t value = code(r, x, ((n * x->dims[1] + (size_t)p) * x->dims[2] + (size_t)q) * x->dims[3] + c);
                total += value;
                count++;
                if (value > largest) largest = value;
            }
        if (r->op->code == KWSQ_AVERAGE_POOL) {
            int64_t magnitude = ((total < 0 ? -total : total) + count / 2) / count;
            largest = total > 0 ? magnitude : -magnitude;
        }
        result(r)[i] = as_byte(largest);
    }
}

/* Returns element `index` of the axes in `mask`, or of the others, as an offset in x. */
static size_t part_index(const struct kwsq_tensor *x, uint32_t mask, size_t index) {
    size_t found = 0, step = 1;
    for (uint32_t i = x->rank; i-- > 0; step *= x->dims[i]) {
        if (!(mask >> i & 1)) continue;
        found += index % x->dims[i] * step;
        index /= x->dims[i];
    }
    return found;
}

static void reduce(const struct run *r) {
    uint32_t mask = (uint32_t)attribute(r, 0);
    size_t count = r->x.size / r->y.size;
    for (size_t i = 0; i < r->y.size; i++) {
        size_t first = part_index(&r->x, ~mask, i);
        int64_t total = 0, largest = -128;
        for (size_t k = 0; k < count; k++) {
            int32_t value = code(r, &r->x, first + part_index(&r->x, mask, k));
            total += value - r->x.zero_point;
            if (value > largest) largest = value;
        }
        if (r->op->code == KWSQ_MEAN)
            largest = clamp((int64_t)scaled(wrapped(total), attribute(r, 1), attribute(r, 2)) + r->y.zero_point, -128, 127);
        result(r)[i] = as_byte(largest);
    }
}

/* ---- movement ---- */

/* Splits an index of `t` into one per axis. */
static void split_index(const struct kwsq_tensor *t, size_t index, size_t at[KWSQ_MAX_RANK]) {
    for (uint32_t i = t->rank; i-- > 0; index /= t->dims[i]) at[i] = index % t->dims[i];
}

static size_t joined_index(const struct kwsq_tensor *t, const size_t at[KWSQ_MAX_RANK]) {
    size_t index = 0;
    for (uint32_t i = 0; i < t->rank; i++) index = index * t->dims[i] + at[i];
    return index;
}

static void pad(const struct run *r) {
    memset(result(r), as_byte(attribute(r, 0)), r->y.size);
    for (size_t i = 0; i < r->x.size; i++) {
        size_t at[KWSQ_MAX_RANK];
        split_index(&r->x, i, at);
        for (uint32_t axis = 0; axis < r->x.rank; axis++) at[axis] += (size_t)attribute(r, 1 + axis);
        result(r)[joined_index(&r->y, at)] = contents(r, &r->x)[i];
    }
}

static void transpose(const struct run *r) {
    uint32_t width = r->x.size_bytes / r->x.size;
    for (size_t i = 0; i < r->y.size; i++) {
        size_t to[KWSQ_MAX_RANK], from[KWSQ_MAX_RANK] = {0};
        split_index(&r->y, i, to);
        for (uint32_t axis = 0; axis < r->y.rank; axis++) from[attribute(r, axis)] = to[axis];
        memcpy(result(r) + i * width, contents(r, &r->x) + joined_index(&r->x, from) * width, width);
    }
}

static void slice(const struct run *r) {
    for (size_t i = 0; i < r->y.size; i++) {
        size_t at[KWSQ_MAX_RANK];
        split_index(&r->y, i, at);
        for (uint32_t axis = 0; axis < r->y.rank; axis++)
            at[axis] = (size_t)attribute(r, axis) + at[axis] * (size_t)attribute(r, r->x.rank + axis);
        result(r)[i] = contents(r, &r->x)[joined_index(&r->x, at)];
    }
}

/* Copies between one whole tensor and its parts along an axis. */
static void concat_or_split(const struct run *r) {
    int is_concat = r->op->code == KWSQ_CONCAT;
    const struct kwsq_tensor *whole = is_concat ? &r->y : &r->x;
    uint32_t axis = (uint32_t)attribute(r, 0), count = is_concat ? r->op->inputs : r->op->outputs;
    size_t inner = 1, done = 0;
    for (uint32_t i = axis + 1; i < whole->rank; i++) inner *= whole->dims[i];
    size_t stride = inner * whole->dims[axis];
    for (uint32_t p = 0; p < count; p++) {
        struct kwsq_tensor part = kwsq_tensor_at(r->pack, kwsq_input(r->op, is_concat ? p : r->op->inputs + p));
        size_t run = inner * part.dims[axis];
        for (size_t i = 0; i * stride < whole->size; i++) {
            if (is_concat) memcpy(r->arena + whole->offset + i * stride + done, contents(r, &part) + i * run, run);
            else memcpy(r->arena + part.offset + i * run, contents(r, whole) + i * stride + done, run);
        }
        done += run;
    }
}

static enum kwsq_status run_operator(const struct run *r) {
    struct kwsq_layer l;
    switch (r->op->code) {
        case KWSQ_CONV:
        case KWSQ_DEPTHWISE:
        case KWSQ_DENSE:
            l = kwsq_layer_at(r->pack, (uint32_t)attribute(r, 0));
            if (r->op->code == KWSQ_DENSE) dense(r, &l);
            else window_layer(r, &l);
            return KWSQ_OK;
        case KWSQ_MATMUL: matmul(r); return KWSQ_OK;
        case KWSQ_TABLE: return table(r);
        case KWSQ_SOFTMAX: softmax(r); return KWSQ_OK;
        case KWSQ_AVERAGE_POOL:
        case KWSQ_MAX_POOL: pool(r); return KWSQ_OK;
        case KWSQ_MEAN:
        case KWSQ_REDUCE_MAX: reduce(r); return KWSQ_OK;
        case KWSQ_PAD: pad(r); return KWSQ_OK;
        case KWSQ_RESHAPE: memcpy(result(r), contents(r, &r->x), r->x.size_bytes); return KWSQ_OK;
        case KWSQ_TRANSPOSE: transpose(r); return KWSQ_OK;
        case KWSQ_CONCAT:
        case KWSQ_SPLIT: concat_or_split(r); return KWSQ_OK;
        case KWSQ_SLICE: slice(r); return KWSQ_OK;
        case KWSQ_REQUANTIZE: requantize(r); return KWSQ_OK;
        case KWSQ_QUANTIZE: return quantize(r);
        case KWSQ_DEQUANTIZE: dequantize(r); return KWSQ_OK;
        default: elementwise(r); return KWSQ_OK;
    }
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
