/* Convolutions, depthwise convolutions and dense layers. Equations are those of docs/quantization.md. */
#include "kwsq_layers.h"

#include <string.h>

#include "kwsq_fixed.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

enum { ROWS = 4, CHANNELS = 8 };

/* ---- dot products ---- */

/* Adds the products of `x` with ROWS rows of codes, `stride` apart, to `sums`; sums wrap as int32. */
static void add_dots(const int8_t *x, const int8_t *codes, size_t count, size_t stride, uint32_t sums[ROWS]) {
    size_t k = 0;
#if defined(__ARM_NEON)
    int32x4_t lanes[ROWS] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (; k + 16 <= count; k += 16) {
        int8x16_t a = vld1q_s8(x + k);
        for (int r = 0; r < ROWS; r++) {
            int8x16_t b = vld1q_s8(codes + (size_t)r * stride + k);
#if defined(__ARM_FEATURE_DOTPROD)
            lanes[r] = vdotq_s32(lanes[r], a, b);
#else
            lanes[r] = vpadalq_s16(lanes[r], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            lanes[r] = vpadalq_s16(lanes[r], vmull_s8(vget_high_s8(a), vget_high_s8(b)));
#endif
        }
    }
    for (; k + 8 <= count; k += 8) {
        int8x8_t a = vld1_s8(x + k);
        for (int r = 0; r < ROWS; r++)
            lanes[r] = vpadalq_s16(lanes[r], vmull_s8(a, vld1_s8(codes + (size_t)r * stride + k)));
    }
    for (int r = 0; r < ROWS; r++) {
        int32x2_t halves = vadd_s32(vget_low_s32(lanes[r]), vget_high_s32(lanes[r]));
        sums[r] += (uint32_t)vget_lane_s32(vpadd_s32(halves, halves), 0);
    }
#endif
    for (; k < count; k++)
        for (int r = 0; r < ROWS; r++) sums[r] += (uint32_t)(x[k] * codes[(size_t)r * stride + k]);
}

/* The same with one row. */
static void add_dot(const int8_t *x, const int8_t *codes, size_t count, uint32_t *sum) {
    for (size_t k = 0; k < count; k++) *sum += (uint32_t)(x[k] * codes[k]);
}

/* ---- what becomes of a sum ---- */

static int8_t as_code(int64_t value, int32_t low, int32_t high) { return (int8_t)kwsq_clamp(value, low, high); }

static int8_t requantized(const struct kwsq_weights *w, uint32_t row, uint32_t sum, int32_t zero_point) {
    uint32_t i = w->per_row ? row : 0;
    int64_t steps = kwsq_scaled(kwsq_wrap(sum), w->multipliers[i], w->shifts[i]);
    return as_code(steps + zero_point, w->low, w->high);
}

/* Equation (15b): one rounding of a binary64 product. */
static int8_t rounded_once(const struct kwsq_weights *w, uint32_t row, uint32_t sum, int32_t zero_point) {
    double low = w->low - zero_point, high = w->high - zero_point;
    double steps = kwsq_wrap(sum) * w->scales[w->per_row ? row : 0];
    /* Clamped a step early, so that the conversion to an integer is defined. */
    steps = steps < low - 1.0 ? low - 1.0 : steps > high + 1.0 ? high + 1.0 : steps;
    return as_code(kwsq_rounded(steps) + zero_point, w->low, w->high);
}

/* ---- windows ---- */

/* Where a window begins in the image; outside it for a part that is padding. */
struct place {
    int64_t top, left;
    const int8_t *image;
};

static struct place place_at(const struct kwsq_window *v, const struct kwsq_tensor *x, const int8_t *x_data,
                             const struct kwsq_tensor *y, size_t position) {
    size_t w = position % y->dims[2], h = position / y->dims[2] % y->dims[1];
    size_t n = position / y->dims[2] / y->dims[1];
    struct place p;
    p.top = (int64_t)h * v->stride[0] - v->before[0];
    p.left = (int64_t)w * v->stride[1] - v->before[1];
    p.image = x_data + n * x->dims[1] * x->dims[2] * x->dims[3];
    return p;
}

static const int8_t *pixel(const struct place *p, const struct kwsq_window *v, const struct kwsq_tensor *x, uint32_t i,
                           uint32_t j) {
    int64_t h = p->top + (int64_t)i * v->dilation[0], w = p->left + (int64_t)j * v->dilation[1];
    if (h < 0 || h >= (int64_t)x->dims[1] || w < 0 || w >= (int64_t)x->dims[2]) return NULL;
    return p->image + ((size_t)h * x->dims[2] + (size_t)w) * x->dims[3];
}

/* Whether every row of the window lies in one piece inside the image. */
static int is_plain(const struct place *p, const struct kwsq_window *v, const struct kwsq_tensor *x) {
    int64_t bottom = p->top + (int64_t)(v->kernel[0] - 1) * v->dilation[0], right = p->left + v->kernel[1] - 1;
    return v->depth == x->dims[3] && (v->dilation[1] == 1 || v->kernel[1] == 1) && p->top >= 0 && p->left >= 0 &&
           bottom < (int64_t)x->dims[1] && right < (int64_t)x->dims[2];
}

/* Gathers what a window sees, padding as real zeros. */
static void gather(const struct place *p, const struct kwsq_window *v, const struct kwsq_tensor *x, uint32_t first,
                   int8_t *patch) {
    for (uint32_t i = 0; i < v->kernel[0]; i++)
        for (uint32_t j = 0; j < v->kernel[1]; j++, patch += v->depth) {
            const int8_t *from = pixel(p, v, x, i, j);
            if (from) memcpy(patch, from + first, v->depth);
            else memset(patch, x->zero_point, v->depth);
        }
}

/* The products of ROWS rows, or of one, with a window: in pieces of `run` codes, `step` apart in the image. */
static void add_window(const struct kwsq_weights *w, const int8_t *x, size_t run, size_t step, uint32_t row,
                       uint32_t rows, uint32_t sums[ROWS]) {
    for (size_t done = 0; done < w->columns; done += run, x += step) {
        const int8_t *codes = w->codes + (size_t)row * w->columns + done;
        if (rows == ROWS) add_dots(x, codes, run, w->columns, sums);
        else for (uint32_t r = 0; r < rows; r++) add_dot(x, codes + (size_t)r * w->columns, run, sums + r);
    }
}

void kwsq_conv(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
               const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data, int8_t *patch) {
    uint32_t per_group = weights->rows / (x->dims[3] / window->depth);
    size_t row_step = (size_t)x->dims[2] * x->dims[3] * window->dilation[0], row_run = (size_t)window->kernel[1] * window->depth;
    for (size_t i = 0; i < y->size / weights->rows; i++) {
        struct place p = place_at(window, x, x_data, y, i);
        int plain = is_plain(&p, window, x);
        for (uint32_t first = 0; first < weights->rows; first += per_group) {
            const int8_t *seen = plain ? pixel(&p, window, x, 0, 0) : patch;
            if (!plain) gather(&p, window, x, first / per_group * window->depth, patch);
            size_t run = plain ? row_run : weights->columns, step = plain ? row_step : 0;
            for (uint32_t row = first; row < first + per_group;) {
                uint32_t left = first + per_group - row, rows = left < ROWS ? left : ROWS;
                uint32_t sums[ROWS] = {0};
                for (uint32_t r = 0; r < rows; r++) sums[r] = (uint32_t)weights->biases[row + r];
                add_window(weights, seen, run, step, row, rows, sums);
                for (uint32_t r = 0; r < rows; r++)
                    y_data[i * weights->rows + row + r] = requantized(weights, row + r, sums[r], y->zero_point);
                row += rows;
            }
        }
    }
}

/* Adds the products of CHANNELS channels at one tap. */
static void add_tap(const int8_t *x, const int8_t *codes, int32_t zero_point, int32_t sums[CHANNELS]) {
#if defined(__ARM_NEON)
    int16x8_t a = vsubq_s16(vmovl_s8(vld1_s8(x)), vdupq_n_s16((int16_t)zero_point)), b = vmovl_s8(vld1_s8(codes));
    vst1q_s32(sums, vmlal_s16(vld1q_s32(sums), vget_low_s16(a), vget_low_s16(b)));
    vst1q_s32(sums + 4, vmlal_s16(vld1q_s32(sums + 4), vget_high_s16(a), vget_high_s16(b)));
#else
    for (int c = 0; c < CHANNELS; c++) sums[c] += (x[c] - zero_point) * codes[c];
#endif
}

static void depthwise_channels(const struct kwsq_weights *w, const struct kwsq_window *v, const struct kwsq_tensor *x,
                               const struct place *p, uint32_t first, uint32_t count, int32_t sums[CHANNELS]) {
    uint32_t multiplier = w->rows / x->dims[3];
    for (uint32_t i = 0; i < v->kernel[0]; i++)
        for (uint32_t j = 0; j < v->kernel[1]; j++) {
            const int8_t *from = pixel(p, v, x, i, j);
            const int8_t *codes = w->codes + ((size_t)i * v->kernel[1] + j) * w->rows + first;
            if (!from) continue;
            if (multiplier == 1 && count == CHANNELS) add_tap(from + first, codes, x->zero_point, sums);
            else for (uint32_t c = 0; c < count; c++)
                sums[c] += (from[(first + c) / multiplier] - x->zero_point) * codes[c];
        }
}

void kwsq_depthwise(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
                    const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data) {
    for (size_t i = 0; i < y->size / weights->rows; i++) {
        struct place p = place_at(window, x, x_data, y, i);
        for (uint32_t first = 0; first < weights->rows; first += CHANNELS) {
            uint32_t left = weights->rows - first, count = left < CHANNELS ? left : CHANNELS;
            int32_t sums[CHANNELS] = {0};
            depthwise_channels(weights, window, x, &p, first, count, sums);
            for (uint32_t c = 0; c < count; c++) {
                uint32_t sum = (uint32_t)sums[c] + (uint32_t)weights->biases[first + c];
                y_data[i * weights->rows + first + c] = requantized(weights, first + c, sum, y->zero_point);
            }
        }
    }
}

/* ---- dense ---- */

void kwsq_dense(const struct kwsq_weights *weights, const struct kwsq_tensor *x, const int8_t *x_data,
                const struct kwsq_tensor *y, int8_t *y_data) {
    for (size_t i = 0; i < x->size / weights->columns; i++, x_data += weights->columns)
        for (uint32_t row = 0; row < weights->rows;) {
            uint32_t left = weights->rows - row, rows = left < ROWS ? left : ROWS;
            uint32_t sums[ROWS] = {0};
            for (uint32_t r = 0; r < rows; r++) sums[r] = (uint32_t)weights->biases[row + r];
            add_window(weights, x_data, weights->columns, 0, row, rows, sums);
            for (uint32_t r = 0; r < rows; r++)
                *y_data++ = rounded_once(weights, row + r, sums[r], y->zero_point);
            row += rows;
        }
}
