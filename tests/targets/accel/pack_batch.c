/* Opens and runs many packs, each in memory of exactly its size, so that a sanitizer sees any step outside.
 * Input: u32 length and bytes of each. Output: a line of status, section and FNV-1a of the outputs, or "-". */
#include <stdio.h>
#include <stdlib.h>

#include "kwsq_pack.h"

enum { MAX_WORK = 1 << 20, MAX_ARENA = 1 << 22 };

static void fill(const struct kwsq_pack *pack, uint8_t *arena) {
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        struct kwsq_tensor t = kwsq_tensor_at(pack, io.tensor);
        for (uint32_t k = 0; !io.is_output && k < t.size_bytes; k++) arena[t.offset + k] = (uint8_t)(k * 37u + 11u);
    }
    kwsq_reset(pack, arena);
}

static void print_outputs(const struct kwsq_pack *pack, const uint8_t *arena) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        struct kwsq_tensor t = kwsq_tensor_at(pack, io.tensor);
        for (uint32_t k = 0; io.is_output && k < t.size_bytes; k++)
            hash = (hash ^ arena[t.offset + k]) * 0x100000001B3u;
    }
    printf("0 0 %08lx%08lx\n", (unsigned long)(hash >> 32), (unsigned long)(hash & 0xFFFFFFFFu));
}

static void try(const uint8_t *data, size_t size) {
    struct kwsq_pack pack;
    if (kwsq_open(&pack, data, size) != KWSQ_OK) {
        printf("1 %d -\n", (int)pack.section);
        return;
    }
    if (pack.work > MAX_WORK || pack.activation_bytes > MAX_ARENA) {
        printf("0 0 -\n");
        return;
    }
    uint8_t *arena = malloc(kwsq_arena_bytes(&pack) + !kwsq_arena_bytes(&pack));
    if (!arena) exit(2);
    fill(&pack, arena);
    if (kwsq_run(&pack, arena) == KWSQ_OK) print_outputs(&pack, arena);
    else printf("2 0 -\n");
    kwsq_step(&pack, arena);
    free(arena);
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    uint8_t length[4];
    if (!file) return 2;
    while (fread(length, 1, 4, file) == 4) {
        size_t size = (size_t)length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
        uint8_t *data = malloc(size + !size);
        if (!data || fread(data, 1, size, file) != size) return 2;
        try(data, size);
        free(data);
    }
    return fclose(file) ? 2 : 0;
}
