/* Fixed-point arithmetic: exact integers, the same bits on every machine. Equations are those of docs/quantization.md. */
#ifndef KWSQ_FIXED_H
#define KWSQ_FIXED_H

#include <stdint.h>

/* Two's complement without the implementation-defined conversion. */
static inline int32_t kwsq_wrap(uint32_t u) {
    return u <= 0x7FFFFFFFu ? (int32_t)u : (int32_t)(u - 0x80000000u) - 0x7FFFFFFF - 1;
}

static inline int32_t kwsq_i8(uint8_t byte) { return byte < 128 ? (int32_t)byte : (int32_t)byte - 256; }

/* Floor division by a power of two, however C shifts negative numbers. */
static inline int64_t kwsq_shifted_right(int64_t value, int n) {
    if ((-1 >> 1) == -1) return value >> n; /* known to the compiler */
    return value >= 0 ? value >> n : ~(~value >> n);
}

static inline int64_t kwsq_clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

static inline uint8_t kwsq_as_byte(int64_t value) { return (uint8_t)(value & 255); }

/* Equation (5). */
static inline int32_t kwsq_doubling_high_mul(int64_t a, int64_t b) {
    int64_t product = kwsq_shifted_right(a * b + ((int64_t)1 << 30), 31);
    return (int32_t)kwsq_clamp(product, -2147483647 - 1, 2147483647);
}

/* Equation (6). */
static inline int64_t kwsq_divided_by_pot(int64_t value, int n) {
    if (n == 0) return value;
    return kwsq_shifted_right(value + ((int64_t)1 << (n - 1)) - (value < 0), n);
}

/* Equation (7); a left shift beyond 32 bits wraps. */
static inline int32_t kwsq_scaled(int32_t value, int32_t multiplier, int32_t shift) {
    if (shift > 0) value = kwsq_wrap((uint32_t)value << shift);
    return (int32_t)kwsq_divided_by_pot(kwsq_doubling_high_mul(value, multiplier), shift < 0 ? -shift : 0);
}

static inline int32_t kwsq_wrapped(int64_t value) { return kwsq_wrap((uint32_t)((uint64_t)value & 0xFFFFFFFFu)); }

/* Rounds half away from zero; the value must be within 2**52. */
static inline int64_t kwsq_rounded(double value) {
    int64_t whole = (int64_t)value;
    double rest = value - (double)whole;
    return whole + (rest >= 0.5) - (rest <= -0.5);
}

#endif
