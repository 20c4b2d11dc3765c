/* Convolutions, depthwise convolutions and dense layers. Equations are those of docs/quantization.md. */
#include "kwsq_layers.h"

#include <string.h>

#include "kwsq_fixed.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define UNROLLED _Pragma("GCC unroll 8") /* at -O2 too, so that sums stay in registers */
#else
#define UNROLLED
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* for each number of positions anew */
#else
#define INLINE static inline
#endif

/* Windows and rows whose sums are made together: as many as there are registers for. */
#if defined(__ARM_FEATURE_DOTPROD)
enum { POSITIONS = KWSQ_PATCHES };
#else
enum { POSITIONS = 1 };
#endif
enum { ROWS = 8, CHANNELS = 8 };

/* ---- dot products ---- */

#if defined(__ARM_NEON)
/* Adds the lanes of four rows to their sums. */
static void add_to_sums(const int32x4_t lanes[4], uint32_t sums[4]) {
    int32x2_t half[4];
    UNROLLED for (int r = 0; r < 4; r++) half[r] = vadd_s32(vget_low_s32(lanes[r]), vget_high_s32(lanes[r]));
    int32x4_t whole = vcombine_s32(vpadd_s32(half[0], half[1]), vpadd_s32(half[2], half[3]));
    vst1q_u32(sums, vaddq_u32(vld1q_u32(sums), vreinterpretq_u32_s32(whole)));
}

#if defined(__ARM_FEATURE_DOTPROD)
/* Adds sixteen products of each window and row to its lanes, as long as there are sixteen; returns how many were taken. */
INLINE size_t add_lanes(int positions, const int8_t *const *x, const int8_t *const *codes, size_t count,
                        uint32_t chunks, int32x4_t lanes[][ROWS]) {
    size_t k = 0;
    (void)chunks;
    for (; k + 16 <= count; k += 16) {
        int8x16_t a[POSITIONS];
        UNROLLED for (int p = 0; p < positions; p++) a[p] = vld1q_s8(x[p] + k);
        UNROLLED for (int r = 0; r < ROWS; r++) {
            int8x16_t b = vld1q_s8(codes[r] + k);
            UNROLLED for (int p = 0; p < positions; p++) lanes[p][r] = vdotq_s32(lanes[p][r], a[p], b);
        }
    }
    return k;
}
#else
/* The same in 16 bits first: as many chunks of sixteen codes as the lanes hold whatever the input is, equation (48). */
INLINE size_t add_lanes(int positions, const int8_t *const *x, const int8_t *const *codes, size_t count,
                        uint32_t chunks, int32x4_t lanes[][ROWS]) {
    size_t k = 0, whole = chunks ? count / 16 * 16 : 0;
    if (chunks == 1) /* the loop below, without its inner one */
        for (; k < whole; k += 16) {
            int8x16_t a[POSITIONS];
            UNROLLED for (int p = 0; p < positions; p++) a[p] = vld1q_s8(x[p] + k);
            UNROLLED for (int r = 0; r < ROWS; r++) {
                int8x16_t b = vld1q_s8(codes[r] + k);
                UNROLLED for (int p = 0; p < positions; p++) {
                    int16x8_t low = vmull_s8(vget_low_s8(a[p]), vget_low_s8(b));
                    lanes[p][r] = vpadalq_s16(lanes[p][r], vmlal_s8(low, vget_high_s8(a[p]), vget_high_s8(b)));
                }
            }
        }
    while (k < whole) {
        size_t end = whole - k < 16 * (size_t)chunks ? whole : k + 16 * (size_t)chunks;
        int16x8_t narrow[POSITIONS][ROWS];
        UNROLLED for (int p = 0; p < positions; p++)
            UNROLLED for (int r = 0; r < ROWS; r++) narrow[p][r] = vdupq_n_s16(0);
        for (; k < end; k += 16) {
            int8x16_t a[POSITIONS];
            UNROLLED for (int p = 0; p < positions; p++) a[p] = vld1q_s8(x[p] + k);
            UNROLLED for (int r = 0; r < ROWS; r++) {
                int8x16_t b = vld1q_s8(codes[r] + k);
                UNROLLED for (int p = 0; p < positions; p++) {
                    narrow[p][r] = vmlal_s8(narrow[p][r], vget_low_s8(a[p]), vget_low_s8(b));
                    narrow[p][r] = vmlal_s8(narrow[p][r], vget_high_s8(a[p]), vget_high_s8(b));
                }
            }
        }
        UNROLLED for (int p = 0; p < positions; p++)
            UNROLLED for (int r = 0; r < ROWS; r++) lanes[p][r] = vpadalq_s16(lanes[p][r], narrow[p][r]);
    }
    return k;
}
#endif
#endif

/* Adds the products of windows with the codes of ROWS rows to `sums`, which wrap as int32. */
INLINE void add_dots(int positions, const int8_t *const *x, const int8_t *const *codes, size_t count, uint32_t chunks,
                     uint32_t sums[][ROWS]) {
    size_t k = 0;
#if defined(__ARM_NEON)
    int32x4_t lanes[POSITIONS][ROWS];
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int r = 0; r < ROWS; r++) lanes[p][r] = vdupq_n_s32(0);
    k = add_lanes(positions, x, codes, count, chunks, lanes);
    for (; k + 8 <= count; k += 8)
        UNROLLED for (int r = 0; r < ROWS; r++) {
            int8x8_t b = vld1_s8(codes[r] + k);
            UNROLLED for (int p = 0; p < positions; p++)
                lanes[p][r] = vpadalq_s16(lanes[p][r], vmull_s8(vld1_s8(x[p] + k), b));
        }
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int r = 0; r < ROWS; r += 4) add_to_sums(lanes[p] + r, sums[p] + r);
#else
    (void)chunks;
#endif
    for (; k < count; k++)
        for (int p = 0; p < positions; p++)
            for (int r = 0; r < ROWS; r++) sums[p][r] += (uint32_t)(x[p][k] * codes[r][k]);
}

/* ---- what becomes of a sum ---- */

static int8_t as_code(int64_t value, int32_t low, int32_t high) { return (int8_t)kwsq_clamp(value, low, high); }

#if defined(__ARM_NEON)
/* Equation (7) on four sums, and what it takes to be a code. */
static int32x4_t requantized(int32x4_t sums, int32x4_t multipliers, int32x4_t shifts, int32_t zero_point,
                             const struct kwsq_weights *w) {
    const int32x4_t none = vdupq_n_s32(0), right = vminq_s32(shifts, none);
    int32x4_t steps = vqrdmulhq_s32(vshlq_s32(sums, vmaxq_s32(shifts, none)), multipliers);
    steps = vqaddq_s32(steps, vshrq_n_s32(vandq_s32(steps, right), 31)); /* ties away from zero */
    steps = vqaddq_s32(vrshlq_s32(steps, right), vdupq_n_s32(zero_point));
    return vminq_s32(vmaxq_s32(steps, vdupq_n_s32(w->low)), vdupq_n_s32(w->high));
}

static void requantize_eight(const struct kwsq_weights *w, uint32_t row, const uint32_t sums[8], int32_t zero_point,
                             int8_t *out) {
    int32x4_t low = vreinterpretq_s32_u32(vld1q_u32(sums)), high = vreinterpretq_s32_u32(vld1q_u32(sums + 4));
    int32x4_t by[2], shift[2];
    if (w->per_row) {
        int16x8_t shifts = vmovl_s8(vld1_s8(w->shifts + row));
        by[0] = vld1q_s32(w->multipliers + row);
        by[1] = vld1q_s32(w->multipliers + row + 4);
        shift[0] = vmovl_s16(vget_low_s16(shifts));
        shift[1] = vmovl_s16(vget_high_s16(shifts));
    } else {
        by[0] = by[1] = vdupq_n_s32(w->multipliers[0]);
        shift[0] = shift[1] = vdupq_n_s32(w->shifts[0]);
    }
    low = requantized(low, by[0], shift[0], zero_point, w);
    high = requantized(high, by[1], shift[1], zero_point, w);
    vst1_s8(out, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
}
#endif

static void requantize(const struct kwsq_weights *w, uint32_t row, uint32_t rows, const uint32_t sums[8],
                       int32_t zero_point, int8_t *out) {
#if defined(__ARM_NEON)
    if (rows == 8) {
        requantize_eight(w, row, sums, zero_point, out);
        return;
    }
#endif
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t i = w->per_row ? row + r : 0;
        int64_t steps = kwsq_scaled(kwsq_wrap(sums[r]), w->multipliers[i], w->shifts[i]);
        out[r] = as_code(steps + zero_point, w->low, w->high);
    }
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

/* Starts the sums of some rows, at most ROWS, with their biases and adds their products with windows, which lie in pieces
 * of `run` codes, `step` apart in the image. Sums of rows that are not there repeat the last one. */
INLINE void sum_rows(int positions, const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step,
                     uint32_t row, uint32_t rows, uint32_t sums[][ROWS]) {
    const int8_t *codes[ROWS], *x[POSITIONS];
    for (int p = 0; p < positions; p++) x[p] = seen[p];
    for (uint32_t r = 0; r < ROWS; r++) {
        uint32_t there = row + (r < rows ? r : rows - 1);
        codes[r] = w->codes + (size_t)there * w->columns;
        for (int p = 0; p < positions; p++) sums[p][r] = (uint32_t)w->biases[there];
    }
    for (size_t done = 0; done < w->columns; done += run) {
        add_dots(positions, x, codes, run, w->chunks, sums);
        for (int p = 0; p < positions; p++) x[p] += step;
        for (int r = 0; r < ROWS; r++) codes[r] += run;
    }
}

static void sum_one(const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step, uint32_t row,
                    uint32_t rows, uint32_t sums[][ROWS]) {
    sum_rows(1, w, seen, run, step, row, rows, sums);
}

static void sum_all(const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step, uint32_t row,
                    uint32_t rows, uint32_t sums[][ROWS]) {
    sum_rows(POSITIONS, w, seen, run, step, row, rows, sums);
}

static uint32_t fewer(size_t left, uint32_t most) { return left < most ? (uint32_t)left : most; }

void kwsq_conv(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
               const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data, int8_t *patch) {
    uint32_t per_group = weights->rows / (x->dims[3] / window->depth);
    size_t row_step = (size_t)x->dims[2] * x->dims[3] * window->dilation[0], count = y->size / weights->rows;
    size_t row_run = (size_t)window->kernel[1] * window->depth;
    for (size_t i = 0; i < count; i += POSITIONS) {
        struct place places[POSITIONS];
        const int8_t *seen[POSITIONS];
        uint32_t positions = fewer(count - i, POSITIONS);
        int plain = 1;
        for (uint32_t p = 0; p < positions; p++) {
            places[p] = place_at(window, x, x_data, y, i + p);
            plain = plain && is_plain(&places[p], window, x);
        }
        size_t run = plain ? row_run : weights->columns, step = plain ? row_step : 0;
        for (uint32_t first = 0; first < weights->rows; first += per_group) {
            for (uint32_t p = 0; p < positions; p++) {
                int8_t *own = patch + (size_t)p * weights->columns;
                if (!plain) gather(&places[p], window, x, first / per_group * window->depth, own);
                seen[p] = plain ? pixel(&places[p], window, x, 0, 0) : own;
            }
            for (uint32_t row = first, rows; row < first + per_group; row += rows) {
                uint32_t sums[POSITIONS][ROWS];
                rows = fewer(first + per_group - row, ROWS);
                (positions == POSITIONS ? sum_all : sum_one)(weights, seen, run, step, row, rows, sums);
                for (uint32_t p = 0; p < positions; p++)
                    requantize(weights, row, rows, sums[p], y->zero_point, y_data + (i + p) * weights->rows + row);
            }
        }
    }
}

/* Adds the products of CHANNELS channels at one tap. */
static void add_tap(const int8_t *x, const int8_t *codes, int32_t zero_point, uint32_t sums[CHANNELS]) {
#if defined(__ARM_NEON)
    int16x8_t a = vsubq_s16(vmovl_s8(vld1_s8(x)), vdupq_n_s16((int16_t)zero_point)), b = vmovl_s8(vld1_s8(codes));
    int32x4_t low = vreinterpretq_s32_u32(vld1q_u32(sums)), high = vreinterpretq_s32_u32(vld1q_u32(sums + 4));
    low = vmlal_s16(low, vget_low_s16(a), vget_low_s16(b));
    high = vmlal_s16(high, vget_high_s16(a), vget_high_s16(b));
    vst1q_u32(sums, vreinterpretq_u32_s32(low));
    vst1q_u32(sums + 4, vreinterpretq_u32_s32(high));
#else
    for (int c = 0; c < CHANNELS; c++) sums[c] += (uint32_t)((x[c] - zero_point) * codes[c]);
#endif
}

static void depthwise_channels(const struct kwsq_weights *w, const struct kwsq_window *v, const struct kwsq_tensor *x,
                               const struct place *p, uint32_t first, uint32_t count, uint32_t sums[CHANNELS]) {
    uint32_t multiplier = w->rows / x->dims[3];
    for (uint32_t i = 0; i < v->kernel[0]; i++)
        for (uint32_t j = 0; j < v->kernel[1]; j++) {
            const int8_t *from = pixel(p, v, x, i, j);
            const int8_t *codes = w->codes + ((size_t)i * v->kernel[1] + j) * w->rows + first;
            if (!from) continue;
            if (multiplier == 1 && count == CHANNELS) add_tap(from + first, codes, x->zero_point, sums);
            else for (uint32_t c = 0; c < count; c++)
                sums[c] += (uint32_t)((from[(first + c) / multiplier] - x->zero_point) * codes[c]);
        }
}

void kwsq_depthwise(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
                    const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data) {
    for (size_t i = 0; i < y->size / weights->rows; i++) {
        struct place p = place_at(window, x, x_data, y, i);
        for (uint32_t first = 0; first < weights->rows; first += CHANNELS) {
            uint32_t count = fewer(weights->rows - first, CHANNELS);
            uint32_t sums[CHANNELS] = {0};
            depthwise_channels(weights, window, x, &p, first, count, sums);
            for (uint32_t c = 0; c < count; c++) sums[c] += (uint32_t)weights->biases[first + c];
            requantize(weights, first, count, sums, y->zero_point, y_data + i * weights->rows + first);
        }
    }
}

/* ---- dense ---- */

void kwsq_dense(const struct kwsq_weights *weights, const struct kwsq_tensor *x, const int8_t *x_data,
                const struct kwsq_tensor *y, int8_t *y_data) {
    for (size_t i = 0; i < x->size / weights->columns; i++, x_data += weights->columns)
        for (uint32_t row = 0, rows; row < weights->rows; row += rows) {
            uint32_t sums[1][ROWS];
            rows = fewer(weights->rows - row, ROWS);
            sum_one(weights, &x_data, weights->columns, 0, row, rows, sums);
            for (uint32_t r = 0; r < rows; r++) *y_data++ = rounded_once(weights, row + r, sums[0][r], y->zero_point);
        }
}
