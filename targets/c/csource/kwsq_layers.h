/* Layers on int8 codes of weights as they lie in flash: C99, with NEON and its dot products where the compiler has them.
 * Every path gives the same bits. */
#ifndef KWSQ_LAYERS_H
#define KWSQ_LAYERS_H

#include "kwsq_kernels.h"

/* What the layers share.
 *
 * codes: in blocks of KWSQ_BLOCK rows, the last of a group of output channels shorter where they do not divide, and in a
 * block as many columns at a time, row after row, nothing padded; of a depthwise layer taps x channels.
 * biases: one per row, minus the input's zero point times the row's sum; of a depthwise layer the biases themselves.
 * multipliers, shifts, scales: one per row, or one for all. Dense layers take scales, the others multipliers and shifts.
 * low, high: codes between which the output lies.
 * chunks: of two products that fit int16 lanes whatever the input is; 0 where not even one does. */
struct kwsq_weights {
    const int8_t *codes;
    const int32_t *biases;
    const int32_t *multipliers;
    const int8_t *shifts;
    const double *scales;
    uint32_t rows, columns, per_row;
    int32_t low, high;
    uint32_t chunks;
};

enum { KWSQ_BLOCK = 4 };

/* A window: kernel, stride, dilation, padding before, each height and width; input channels of an output channel. */
struct kwsq_window {
    uint32_t kernel[2], stride[2], dilation[2], before[2], depth;
};

/* `patch` holds weights->columns bytes. */
void kwsq_conv(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
               const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data, int8_t *patch);
void kwsq_depthwise(const struct kwsq_weights *weights, const struct kwsq_window *window, const struct kwsq_tensor *x,
                    const int8_t *x_data, const struct kwsq_tensor *y, int8_t *y_data);
void kwsq_dense(const struct kwsq_weights *weights, const struct kwsq_tensor *x, const int8_t *x_data,
                const struct kwsq_tensor *y, int8_t *y_data);

#endif
