/* The operators without weights: exact integers, the same bits on every machine. Equations are those of
 * docs/quantization.md. */
#include "kwsq_kernels.h"

#include <math.h>
#include <string.h>

#include "kwsq_fixed.h"

static int32_t code(const uint8_t *data, size_t i) { return kwsq_i8(data[i]); }

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

void kwsq_matmul(const struct kwsq_call *c) {
    const struct kwsq_tensor *a = c->x, *b = c->b, *y = c->y;
    size_t m = y->dims[y->rank - 2], n = y->dims[y->rank - 1], depth = a->dims[a->rank - 1];
    for (size_t i = 0; i < y->size; i++) {
        size_t matrix = i / (m * n), row = i / n % m, column = i % n;
        size_t left = broadcast_index(y, a, matrix, 2) * m * depth + row * depth;
        size_t right = broadcast_index(y, b, matrix, 2) * depth * n + column;
        int64_t sum = 0;
        for (size_t k = 0; k < depth; k++)
            sum += (int64_t)(code(c->x_data, left + k) - a->zero_point) * (code(c->b_data, right + k * n) - b->zero_point);
        int64_t steps = (int64_t)kwsq_scaled(kwsq_wrapped(sum), c->numbers[0], c->numbers[1]) + y->zero_point;
        c->y_data[i] = kwsq_as_byte(kwsq_clamp(steps, -128, 127));
    }
}

static int32_t pair(const struct kwsq_call *c, int32_t p, int32_t q) {
    if (c->code == KWSQ_MAXIMUM) return p > q ? p : q;
    if (c->code == KWSQ_MINIMUM) return p < q ? p : q;
    p -= c->x->zero_point;
    q -= c->b->zero_point;
    uint32_t first = 0;
    int32_t raw = p * q;
    if (c->code == KWSQ_PRELU) {
        const int32_t *scale = c->numbers + (p >= 0 ? 0 : 2);
        int64_t steps = kwsq_scaled(p >= 0 ? p : raw, scale[0], scale[1]);
        return (int32_t)kwsq_clamp(steps + c->y->zero_point, -128, 127);
    }
    if (c->code != KWSQ_MUL) {
        int32_t unit = c->code == KWSQ_SQUARED_DIFFERENCE ? 1 << 7 : 1 << 20;
        int64_t left = kwsq_scaled(p * unit, c->numbers[0], c->numbers[1]);
        int64_t right = kwsq_scaled(q * unit, c->numbers[2], c->numbers[3]);
        raw = kwsq_wrapped(c->code == KWSQ_ADD ? left + right : left - right);
        if (c->code == KWSQ_SQUARED_DIFFERENCE) raw = kwsq_wrapped((int64_t)raw * raw);
        first = 4;
    }
    int64_t steps = (int64_t)kwsq_scaled(raw, c->numbers[first], c->numbers[first + 1]) + c->y->zero_point;
    return (int32_t)kwsq_clamp(steps, c->numbers[first + 2], c->numbers[first + 3]);
}

void kwsq_elementwise(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        int32_t p = code(c->x_data, broadcast_index(c->y, c->x, i, 0));
        int32_t q = code(c->b_data, broadcast_index(c->y, c->b, i, 0));
        c->y_data[i] = kwsq_as_byte(pair(c, p, q));
    }
}

/* ---- one operand ---- */

enum kwsq_status kwsq_table(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        int32_t q = code(c->x_data, i);
        if (q < c->numbers[0]) return KWSQ_OUT_OF_RANGE;
        c->y_data[i] = c->table[q + 128];
    }
    return KWSQ_OK;
}

/* Equation (28): exp(a) for a <= 0 in Q5.26, as Q0.31. */
static int32_t exp_on_negative(int32_t a) {
    static const int32_t powers[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int64_t quarter = 1 << 24, minus_eighth = 1895147668;
    if (a == 0) return 2147483647;
    int64_t fraction = (int64_t)((uint32_t)a & 0xFFFFFFu) - quarter, rest = fraction - a;
    int64_t x = fraction * 32 + (1 << 28), x2 = kwsq_doubling_high_mul(x, x);
    int64_t x3 = kwsq_doubling_high_mul(x2, x), x4 = kwsq_doubling_high_mul(x2, x2);
    int64_t tail = kwsq_divided_by_pot(kwsq_doubling_high_mul(kwsq_divided_by_pot(x4, 2) + x3, 715827883) + x2, 1);
    int64_t value = minus_eighth + kwsq_doubling_high_mul(minus_eighth, x + tail);
    for (int i = 0; i < 7; i++)
        if (rest >> (24 + i) & 1) value = kwsq_doubling_high_mul(value, powers[i]);
    return (int32_t)value;
}

/* Equation (29): 1 / (1 + x) for x in Q0.31. */
static int64_t one_over_one_plus(int64_t x) {
    const int64_t low = -2147483647 - 1, high = 2147483647, one = 1 << 29;
    int64_t half = (x + high + 1) / 2, y = 1515870810 + (int64_t)kwsq_doubling_high_mul(half, -1010580540);
    for (int i = 0; i < 3; i++) {
        int64_t error = one - kwsq_doubling_high_mul(half, y);
        y += kwsq_clamp((int64_t)kwsq_doubling_high_mul(y, error) * 4, low, high);
    }
    return kwsq_clamp(y * 2, low, high);
}

/* exp of the difference d >= 0 to the largest code, equation (27). */
static int32_t exp_of_difference(const struct kwsq_call *c, int32_t d) {
    int32_t left_shift = c->numbers[1];
    int64_t lowest = ((int64_t)31 << 26) >> left_shift;
    if (d > lowest) return 0;
    return exp_on_negative(kwsq_doubling_high_mul(-((int64_t)d << left_shift), c->numbers[0]));
}

void kwsq_softmax(const struct kwsq_call *c) {
    size_t count = c->x->dims[c->x->rank - 1];
    int64_t lowest = ((int64_t)31 << 26) >> c->numbers[1];
    for (size_t first = 0; first < c->x->size; first += count) {
        int32_t largest = -128, headroom = 32;
        int64_t total = 0;
        for (size_t i = first; i < first + count; i++)
            if (code(c->x_data, i) > largest) largest = code(c->x_data, i);
        for (size_t i = first; i < first + count; i++)
            total += kwsq_divided_by_pot(exp_of_difference(c, largest - code(c->x_data, i)), 12);
        for (int64_t rest = total; rest > 0; rest /= 2) headroom--;
        int64_t reciprocal = one_over_one_plus(total * ((int64_t)1 << headroom) - ((int64_t)1 << 31));
        for (size_t i = first; i < first + count; i++) {
            int32_t d = largest - code(c->x_data, i);
            int64_t product = kwsq_doubling_high_mul(reciprocal, exp_of_difference(c, d));
            int64_t q = kwsq_divided_by_pot(product, 12 - headroom + 31 - 8) - 128;
            c->y_data[i] = kwsq_as_byte(d > lowest ? -128 : kwsq_clamp(q, -128, 127));
        }
    }
}

static int32_t typed_code(const struct kwsq_call *c, size_t i) {
    return c->x->type == KWSQ_UINT8 ? c->x_data[i] : code(c->x_data, i);
}

static int64_t saturated(const struct kwsq_call *c, int64_t value) {
    return c->y->type == KWSQ_UINT8 ? kwsq_clamp(value, 0, 255) : kwsq_clamp(value, -128, 127);
}

void kwsq_requantize(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        int32_t steps = kwsq_scaled(typed_code(c, i) - c->x->zero_point, c->numbers[0], c->numbers[1]);
        c->y_data[i] = kwsq_as_byte(saturated(c, (int64_t)steps + c->y->zero_point));
    }
}

enum kwsq_status kwsq_quantize(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        float value;
        memcpy(&value, c->x_data + 4 * i, 4);
        value /= c->y->scale;
        if (isnan(value)) return KWSQ_OUT_OF_RANGE;
        double steps = value < -1e6f ? -1e6 : value > 1e6f ? 1e6 : (double)value; /* far outside any 8-bit grid */
        c->y_data[i] = kwsq_as_byte(saturated(c, kwsq_rounded(steps) + c->y->zero_point));
    }
    return KWSQ_OK;
}

void kwsq_dequantize(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        float value = (float)(typed_code(c, i) - c->x->zero_point) * c->x->scale;
        memcpy(c->y_data + 4 * i, &value, 4);
    }
}

/* ---- windows and reductions ---- */

void kwsq_pool(const struct kwsq_call *c) {
    const struct kwsq_tensor *x = c->x, *y = c->y;
    for (size_t i = 0; i < y->size; i++) {
        size_t channel = i % y->dims[3], w = i / y->dims[3] % y->dims[2], h = i / y->dims[3] / y->dims[2] % y->dims[1];
        size_t n = i / y->dims[3] / y->dims[2] / y->dims[1];
        int64_t top = (int64_t)h * c->numbers[2] - c->numbers[4], left = (int64_t)w * c->numbers[3] - c->numbers[5];
        int64_t bottom = kwsq_clamp(top + c->numbers[0], 0, x->dims[1]);
        int64_t right = kwsq_clamp(left + c->numbers[1], 0, x->dims[2]);
        int64_t total = 0, count = 0, largest = -128;
        for (int64_t p = top < 0 ? 0 : top; p < bottom; p++)
            for (int64_t q = left < 0 ? 0 : left; q < right; q++) {
                size_t pixel = (n * x->dims[1] + (size_t)p) * x->dims[2] + (size_t)q;
                int32_t value = code(c->x_data, pixel * x->dims[3] + channel);
                total += value;
                count++;
                if (value > largest) largest = value;
            }
        if (c->code == KWSQ_AVERAGE_POOL) {
            int64_t magnitude = ((total < 0 ? -total : total) + count / 2) / count;
            largest = total > 0 ? magnitude : -magnitude;
        }
        c->y_data[i] = kwsq_as_byte(largest);
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

void kwsq_reduce(const struct kwsq_call *c) {
    uint32_t mask = (uint32_t)c->numbers[0];
    size_t count = c->x->size / c->y->size, step = count > 1 ? part_index(c->x, mask, 1) : 0;
    /* Axes beside each other are one: they end where as many steps of the innermost do, others further on. */
    int is_one = part_index(c->x, mask, count - 1) == step * (count - 1);
    for (size_t i = 0; i < c->y->size; i++) {
        size_t first = part_index(c->x, ~mask, i);
        int64_t total = 0, largest = -128;
        for (size_t k = 0; k < count; k++) {
            int32_t value = code(c->x_data, first + (is_one ? k * step : part_index(c->x, mask, k)));
            total += value - c->x->zero_point;
            if (value > largest) largest = value;
        }
        if (c->code == KWSQ_MEAN) {
            int64_t steps = kwsq_scaled(kwsq_wrapped(total), c->numbers[1], c->numbers[2]);
            largest = kwsq_clamp(steps + c->y->zero_point, -128, 127);
        }
        c->y_data[i] = kwsq_as_byte(largest);
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

void kwsq_pad(const struct kwsq_call *c) {
    memset(c->y_data, kwsq_as_byte(c->numbers[0]), c->y->size);
    for (size_t i = 0; i < c->x->size; i++) {
        size_t at[KWSQ_MAX_RANK];
        split_index(c->x, i, at);
        for (uint32_t axis = 0; axis < c->x->rank; axis++) at[axis] += (size_t)c->numbers[1 + axis];
        c->y_data[joined_index(c->y, at)] = c->x_data[i];
    }
}

/* Moves `at` to the next element in row-major order, and with it an index whose axes lie `steps` apart. */
static size_t next_index(const struct kwsq_tensor *t, uint32_t axes, const size_t steps[KWSQ_MAX_RANK],
                         size_t at[KWSQ_MAX_RANK], size_t index) {
    for (uint32_t i = axes; i-- > 0;) {
        index += steps[i];
        if (++at[i] < t->dims[i]) break;
        index -= steps[i] * t->dims[i];
        at[i] = 0;
    }
    return index;
}

void kwsq_transpose(const struct kwsq_call *c) {
    size_t width = c->x->size_bytes / c->x->size, at[KWSQ_MAX_RANK] = {0}, steps[KWSQ_MAX_RANK], step[KWSQ_MAX_RANK];
    size_t size = width, from = 0;
    for (uint32_t i = c->x->rank; i-- > 0; size *= c->x->dims[i]) step[i] = size;
    for (uint32_t i = 0; i < c->y->rank; i++) steps[i] = step[c->numbers[i]];
    uint8_t *to = c->y_data;
    uint32_t last = c->y->rank ? c->y->rank - 1 : 0;
    size_t count = c->y->rank ? c->y->dims[last] : 1, by = c->y->rank ? steps[last] : width;
    for (size_t i = 0; i < c->y->size; i += count, from = next_index(c->y, last, steps, at, from))
        for (size_t k = 0; k < count; k++, to += width)
            if (width == 1) *to = c->x_data[from + k * by];
            else memcpy(to, c->x_data + from + k * by, width);
}

void kwsq_slice(const struct kwsq_call *c) {
    for (size_t i = 0; i < c->y->size; i++) {
        size_t at[KWSQ_MAX_RANK];
        split_index(c->y, i, at);
        for (uint32_t axis = 0; axis < c->y->rank; axis++)
            at[axis] = (size_t)c->numbers[axis] + at[axis] * (size_t)c->numbers[c->x->rank + axis];
        c->y_data[i] = c->x_data[joined_index(c->x, at)];
    }
}

void kwsq_reshape(const struct kwsq_call *c) { memcpy(c->y_data, c->x_data, c->x->size_bytes); }

/* Elements of a tensor behind `axis`. */
static size_t inner_size(const struct kwsq_tensor *t, uint32_t axis) {
    size_t inner = 1;
    for (uint32_t i = axis + 1; i < t->rank; i++) inner *= t->dims[i];
    return inner;
}

void kwsq_join(const struct kwsq_tensor *whole, uint8_t *to, const struct kwsq_tensor *part, const uint8_t *from,
               uint32_t axis, uint32_t done) {
    size_t inner = inner_size(whole, axis), stride = inner * whole->dims[axis], run = inner * part->dims[axis];
    for (size_t i = 0; i * stride < whole->size; i++) memcpy(to + i * stride + done * inner, from + i * run, run);
}

void kwsq_part(const struct kwsq_tensor *whole, const uint8_t *from, const struct kwsq_tensor *part, uint8_t *to,
               uint32_t axis, uint32_t done) {
    size_t inner = inner_size(whole, axis), stride = inner * whole->dims[axis], run = inner * part->dims[axis];
    for (size_t i = 0; i * stride < whole->size; i++) memcpy(to + i * run, from + i * stride + done * inner, run);
}
