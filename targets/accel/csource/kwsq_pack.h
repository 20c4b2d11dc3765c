/* Reads and runs a kwsq pack where it lies in memory: C99, no heap, no libraries. docs/pack-format.md is normative.
 *
 *   struct kwsq_pack pack;
 *   if (kwsq_open(&pack, data, size) != KWSQ_OK) puts(pack.error);
 *   static uint8_t arena[...];                      at least kwsq_arena_bytes(&pack)
 *   kwsq_reset(&pack, arena);                       states to real 0
 *   memcpy(arena + input.offset, samples, input.size_bytes);
 *   kwsq_run(&pack, arena);                         outputs are at arena + output.offset
 *   kwsq_step(&pack, arena);                        states of this run into the next
 *
 * The data must stay where they are and as they are while the pack is in use. kwsq_open checks everything a file can
 * get wrong, digests included, with about 6 KB of stack; what it accepts cannot make the other functions leave their
 * buffers. This is a reference: portable scalar code that defines the bits, not a fast kernel library.
 */
#ifndef KWSQ_PACK_H
#define KWSQ_PACK_H

#include "kwsq_kernels.h"

enum { KWSQ_NO_PARTNER = 0xFFFF };

enum kwsq_section {
    KWSQ_HEADER = 0, /* of the file, with the section table */
    KWSQ_MANIFEST = 1,
    KWSQ_GRAPH = 2,
    KWSQ_IO = 3,
    KWSQ_WEIGHTS = 4,
    KWSQ_CODEBOOKS = 5,
    KWSQ_SCALES = 6,
    KWSQ_BIASES = 7,
    KWSQ_REQUANTIZATION = 8,
    KWSQ_CONSTANTS = 9,
    KWSQ_SECTION_COUNT = 10
};

struct kwsq_span {
    const uint8_t *data;
    uint32_t size;
};

/* A verified pack. Fields are for reading only. */
struct kwsq_pack {
    struct kwsq_span file;
    struct kwsq_span sections[KWSQ_SECTION_COUNT];
    uint32_t tensor_count, operator_count, layer_count, dimension_count, io_count;
    uint32_t activation_bytes; /* arena of the activations */
    uint32_t row_bytes;        /* longest row of weights, decoded behind the activations */
    uint64_t work;             /* element operations of one inference */
    const uint8_t *tensors, *dimensions, *layers, *operators;
    enum kwsq_section section; /* where the file is damaged */
    const char *error;         /* why, NULL when it is not */
};

/* An input or output of the model. */
struct kwsq_io {
    const char *name; /* not terminated */
    uint32_t name_length, tensor, partner;
    int is_output;
};

/* Checks a file and fills `pack`. */
enum kwsq_status kwsq_open(struct kwsq_pack *pack, const void *data, size_t size);

/* Bytes the caller provides to the functions below; no alignment is needed. */
size_t kwsq_arena_bytes(const struct kwsq_pack *pack);

/* Reads entry `index` below pack->io_count: inputs first, then outputs. */
struct kwsq_io kwsq_io_at(const struct kwsq_pack *pack, uint32_t index);

/* Reads tensor `index` below pack->tensor_count. */
struct kwsq_tensor kwsq_tensor_at(const struct kwsq_pack *pack, uint32_t index);

/* Sets the states to real 0. */
void kwsq_reset(const struct kwsq_pack *pack, uint8_t *arena);

/* Computes the outputs. */
enum kwsq_status kwsq_run(const struct kwsq_pack *pack, uint8_t *arena);

/* Copies state outputs into state inputs. */
void kwsq_step(const struct kwsq_pack *pack, uint8_t *arena);

#endif
