/* Convolutions, depthwise convolutions and dense layers. Equations are those of docs/quantization.md. */
#include "kwsq_layers.h"

#include <string.h>

#include "kwsq_fixed.h"

#if defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN) /* lanes are taken to lie as the first byte first */
#define HAS_NEON
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

/* Rows of a block, rows and windows of a convolution that are taken together, channels of a depthwise layer. */
enum { BLOCK = KWSQ_BLOCK, ROWS = 2 * BLOCK, CHANNELS = 8 };
#if !defined(HAS_NEON)
enum { POSITIONS = 1 };
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__)
#define HAS_DOTS
enum { POSITIONS = 4, LANES = 2 };
#else
enum { POSITIONS = 2, LANES = 4 };
#endif

static uint32_t fewer(size_t left, uint32_t most) { return left < most ? (uint32_t)left : most; }

/* ---- dot products ---- */

/* Adds the products of inputs with the codes of a block, at most BLOCK rows, to `sums`, which wrap as int32. */
static void add_block(const int8_t *x, const int8_t *codes, uint32_t rows, size_t count, uint32_t *sums) {
    for (size_t k = 0; k < count; k += BLOCK) {
        uint32_t columns = fewer(count - k, BLOCK);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < columns; c++) sums[r] += (uint32_t)(x[k + c] * *codes++);
    }
}

#if defined(HAS_NEON)
/* Four inputs, four times: once for each row of a block. */
static int8x16_t repeated(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

#if defined(HAS_DOTS)
/* Adds the products of four inputs of each window, those of a lane, with two blocks. */
#define ADD_FOUR(k, lane)                                                                                             \
    UNROLLED for (int b = 0; b < 2; b++) {                                                                            \
        int8x16_t w = vld1q_s8(codes[b] + (k)*BLOCK);                                                                 \
        UNROLLED for (int p = 0; p < positions; p++) lanes[p][b] = vdotq_laneq_s32(lanes[p][b], w, a[p], lane);       \
    }

/* Adds the products of windows with two blocks to lanes, one of each row; `count` is a multiple of four. */
INLINE void add_lanes(int positions, const int8_t *const *x, const int8_t *const *codes, size_t count,
                      uint32_t chunks, int32x4_t lanes[][LANES]) {
    size_t k = 0;
    int8x16_t a[POSITIONS];
    (void)chunks;
    for (; k + 16 <= count; k += 16) {
        UNROLLED for (int p = 0; p < positions; p++) a[p] = vld1q_s8(x[p] + k);
        ADD_FOUR(k, 0)
        ADD_FOUR(k + 4, 1)
        ADD_FOUR(k + 8, 2)
        ADD_FOUR(k + 12, 3)
    }
    for (; k < count; k += 4) {
        UNROLLED for (int p = 0; p < positions; p++) a[p] = repeated(x[p] + k);
        ADD_FOUR(k, 0)
    }
}

static int32x4_t block_sums(const int32x4_t lanes[LANES], int block) { return lanes[block]; }
#else
#if defined(__aarch64__)
#define FOUR_OF(x, lane) vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane))
#define TIMES_HIGH(x, w) vmull_high_s8(x, w)
#define ADD_HIGH(to, x, w) vmlal_high_s8(to, x, w)
#else
#define HALF_OF(x, lane) ((lane) < 2 ? vget_low_s8(x) : vget_high_s8(x))
#define FOUR_OF(x, lane) vreinterpretq_s8_s32(vdupq_lane_s32(vreinterpret_s32_s8(HALF_OF(x, lane)), (lane) % 2))
#define TIMES_HIGH(x, w) vmull_s8(vget_high_s8(x), vget_high_s8(w))
#define ADD_HIGH(to, x, w) vmlal_s8(to, vget_high_s8(x), vget_high_s8(w))
#endif

/* Products of four inputs of each window, repeated for each row, with two blocks: they begin 16-bit lanes or are added. */
INLINE void add_four(int begin, int positions, const int8x16_t *x, const int8_t *const *codes, size_t k,
                     int16x8_t narrow[][LANES]) {
    UNROLLED for (int b = 0; b < 2; b++) {
        int8x16_t w = vld1q_s8(codes[b] + k * BLOCK);
        UNROLLED for (int p = 0; p < positions; p++) {
            int16x8_t *to = narrow[p] + 2 * b;
            int8x8_t low = vget_low_s8(x[p]);
            to[0] = begin ? vmull_s8(low, vget_low_s8(w)) : vmlal_s8(to[0], low, vget_low_s8(w));
            to[1] = begin ? TIMES_HIGH(x[p], w) : ADD_HIGH(to[1], x[p], w);
        }
    }
}

INLINE void widen(int positions, int16x8_t narrow[][LANES], int32x4_t lanes[][LANES]) {
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int i = 0; i < LANES; i++) lanes[p][i] = vpadalq_s16(lanes[p][i], narrow[p][i]);
}

/* The same with sixteen inputs; `alone` where 16-bit lanes hold the products of eight only. */
INLINE void add_sixteen(int begin, int alone, int positions, const int8_t *const *x, const int8_t *const *codes, size_t k,
                        int16x8_t narrow[][LANES], int32x4_t lanes[][LANES]) {
    int8x16_t four[4][POSITIONS];
    UNROLLED for (int p = 0; p < positions; p++) {
        int8x16_t all = vld1q_s8(x[p] + k);
        four[0][p] = FOUR_OF(all, 0);
        four[1][p] = FOUR_OF(all, 1);
        four[2][p] = FOUR_OF(all, 2);
        four[3][p] = FOUR_OF(all, 3);
    }
    add_four(begin, positions, four[0], codes, k, narrow);
    add_four(0, positions, four[1], codes, k + 4, narrow);
    if (alone) widen(positions, narrow, lanes);
    add_four(alone, positions, four[2], codes, k + 8, narrow);
    add_four(0, positions, four[3], codes, k + 12, narrow);
    if (alone) widen(positions, narrow, lanes);
}

/* Adds the products of windows with two blocks to lanes, two of each row; `count` is a multiple of four. In 16 bits
 * first: as many chunks of eight inputs as these hold whatever the input is, equation (48). */
INLINE void add_lanes(int positions, const int8_t *const *x, const int8_t *const *codes, size_t count,
                      uint32_t chunks, int32x4_t lanes[][LANES]) {
    size_t k = 0, whole = chunks ? count / 16 * 16 : 0;
    int16x8_t narrow[POSITIONS][LANES];
    if (chunks == 1)
        for (; k < whole; k += 16) add_sixteen(1, 1, positions, x, codes, k, narrow, lanes);
    while (k < whole) {
        size_t end = k + 16 * (size_t)fewer((whole - k) / 16, chunks / 2);
        add_sixteen(1, 0, positions, x, codes, k, narrow, lanes);
        for (k += 16; k < end; k += 16) add_sixteen(0, 0, positions, x, codes, k, narrow, lanes);
        widen(positions, narrow, lanes);
    }
    for (; k < count; k += 4) {
        int8x16_t four[POSITIONS];
        UNROLLED for (int p = 0; p < positions; p++) four[p] = repeated(x[p] + k);
        add_four(1, positions, four, codes, k, narrow);
        widen(positions, narrow, lanes);
    }
}

static int32x4_t block_sums(const int32x4_t lanes[LANES], int block) {
    int32x4_t first = lanes[2 * block], second = lanes[2 * block + 1];
    return vcombine_s32(vpadd_s32(vget_low_s32(first), vget_high_s32(first)),
                        vpadd_s32(vget_low_s32(second), vget_high_s32(second)));
}
#endif

/* Adds the products of windows with two blocks to the sums of their rows. A window lies in pieces of `run` inputs, `step`
 * apart; where there are several, `run` is a multiple of four. */
INLINE void add_two_blocks(int positions, const struct kwsq_weights *w, const int8_t *const *seen, size_t run,
                           size_t step, const int8_t *const *blocks, uint32_t sums[][ROWS]) {
    const int8_t *codes[2] = {blocks[0], blocks[1]}, *x[POSITIONS];
    size_t count = run / BLOCK * BLOCK;
    int32x4_t lanes[POSITIONS][LANES];
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int i = 0; i < LANES; i++) lanes[p][i] = vdupq_n_s32(0);
    for (size_t done = 0, at = 0; done < w->columns; done += run, at += step) {
        UNROLLED for (int p = 0; p < positions; p++) x[p] = seen[p] + at;
        add_lanes(positions, x, codes, count, w->chunks, lanes);
        UNROLLED for (int b = 0; b < 2; b++) codes[b] += run * BLOCK;
    }
    UNROLLED for (int p = 0; p < positions; p++)
        UNROLLED for (int b = 0; b < 2; b++) {
            uint32_t *to = sums[p] + b * BLOCK;
            vst1q_u32(to, vaddq_u32(vld1q_u32(to), vreinterpretq_u32_s32(block_sums(lanes[p], b))));
            if (count < run) add_block(seen[p] + count, blocks[b] + count * BLOCK, BLOCK, run - count, to);
        }
}
#endif

/* ---- what becomes of a sum ---- */

static int8_t as_code(int64_t value, int32_t low, int32_t high) { return (int8_t)kwsq_clamp(value, low, high); }

#if defined(HAS_NEON)
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
#if defined(HAS_NEON)
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

/* Makes the sums of some rows with windows, which lie in pieces of `run` inputs, `step` apart: biases first. Where there
 * are several pieces, `run` is a multiple of four. `codes` are those of the rows. */
INLINE void sum_rows(int positions, const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step,
                     const int8_t *codes, const int32_t *biases, uint32_t rows, uint32_t sums[][ROWS]) {
    uint32_t done = 0;
    for (int p = 0; p < positions; p++)
        if (rows == ROWS) memcpy(sums[p], biases, sizeof sums[p]);
        else for (uint32_t r = 0; r < ROWS; r++) sums[p][r] = r < rows ? (uint32_t)biases[r] : 0;
#if defined(HAS_NEON)
    if (rows >= BLOCK) {
        const int8_t *blocks[2];
        done = rows / BLOCK * BLOCK; /* of two blocks that are one, the second sum goes where there is no row */
        blocks[0] = codes;
        blocks[1] = codes + (done > BLOCK ? BLOCK * (size_t)w->columns : 0);
        add_two_blocks(positions, w, seen, run, step, blocks, sums);
        for (int p = 0; p < positions; p++)
            for (uint32_t r = done; r < rows; r++) sums[p][r] = (uint32_t)biases[r];
    }
#endif
    for (uint32_t rows_left; done < rows; done += rows_left) {
        rows_left = fewer(rows - done, BLOCK);
        for (int p = 0; p < positions; p++) {
            const int8_t *from = codes + (size_t)done * w->columns;
            for (size_t column = 0, at = 0; column < w->columns; column += run, at += step, from += run * rows_left)
                add_block(seen[p] + at, from, rows_left, run, sums[p] + done);
        }
    }
}

static void sum_one(const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step,
                    const int8_t *codes, const int32_t *biases, uint32_t rows, uint32_t sums[][ROWS]) {
    sum_rows(1, w, seen, run, step, codes, biases, rows, sums);
}

static void sum_all(const struct kwsq_weights *w, const int8_t *const *seen, size_t run, size_t step,
                    const int8_t *codes, const int32_t *biases, uint32_t rows, uint32_t sums[][ROWS]) {
    sum_rows(POSITIONS, w, seen, run, step, codes, biases, rows, sums);
}

void kwsq_conv(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
               const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data, int8_t *patch) {
    uint32_t per_group = weights->rows / (x->dims[3] / window->depth), positions;
    size_t row_step = (size_t)x->dims[2] * x->dims[3] * window->dilation[0], count = y->size / weights->rows;
    size_t row_run = (size_t)window->kernel[1] * window->depth;
    int in_blocks = row_run == weights->columns || row_run % BLOCK == 0;
    for (size_t i = 0; i < count; i += positions) {
        struct place places[POSITIONS];
        const int8_t *seen[POSITIONS];
        int plain = in_blocks;
        positions = count - i < POSITIONS ? 1 : POSITIONS;
        for (uint32_t p = 0; p < positions; p++) {
            places[p] = place_at(window, x, x_data, y, i + p);
            plain = plain && is_plain(&places[p], window, x);
            if (plain) seen[p] = pixel(&places[p], window, x, 0, 0);
        }
        if (!plain) {
            positions = 1; /* there is one patch */
            seen[0] = patch;
        }
        size_t run = plain ? row_run : weights->columns, step = plain ? row_step : 0;
        for (uint32_t first = 0; first < weights->rows; first += per_group) {
            if (!plain) gather(&places[0], window, x, first / per_group * window->depth, patch);
            for (uint32_t row = first, rows; row < first + per_group; row += rows) {
                uint32_t sums[POSITIONS][ROWS];
                rows = fewer(first + per_group - row, ROWS);
                (positions == POSITIONS ? sum_all : sum_one)(weights, seen, run, step,
                                                             weights->codes + (size_t)row * weights->columns,
                                                             weights->biases + row, rows, sums);
                for (uint32_t p = 0; p < positions; p++)
                    requantize(weights, row, rows, sums[p], y->zero_point, y_data + (i + p) * weights->rows + row);
            }
        }
    }
}

/* Adds the products of CHANNELS channels at one tap. */
static void add_tap(const int8_t *x, const int8_t *codes, int32_t zero_point, uint32_t sums[CHANNELS]) {
#if defined(HAS_NEON)
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
            const int8_t *codes = weights->codes + (size_t)row * weights->columns;
            rows = fewer(weights->rows - row, ROWS);
            sum_one(weights, &x_data, weights->columns, 0, codes, weights->biases + row, rows, sums);
            for (uint32_t r = 0; r < rows; r++) *y_data++ = rounded_once(weights, row + r, sums[0][r], y->zero_point);
        }
}
