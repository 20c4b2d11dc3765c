/* kwsq_main PACK INPUT OUTPUT: runs a pack on a file of raw inputs, one vector after the other; states start at real 0
 * and go from vector to vector. A vector is all inputs that are no states, in order; then all outputs, in order.
 * kwsq_main PACK: checks the pack. The pack is mapped, not read: POSIX. Exit status: 0, 1 for a refused file, 2 for
 * trouble with files, 3 for an input the model has no value for. */
#define _POSIX_C_SOURCE 200112L
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kwsq_pack.h"

static uint8_t arena[1 << 22];

static int trouble(const char *what) {
    perror(what);
    return 2;
}

/* Moves every input (or output) that is no state between the arena and a file; returns 0 at the end of the file. */
static int transfer(const struct kwsq_pack *pack, int outputs, FILE *file) {
    for (uint32_t i = 0; i < pack->io_count; i++) {
        struct kwsq_io io = kwsq_io_at(pack, i);
        struct kwsq_tensor t = kwsq_tensor_at(pack, io.tensor);
        if (io.is_output != outputs || io.partner != KWSQ_NO_PARTNER) continue;
        if (!outputs && fread(arena + t.offset, 1, t.size_bytes, file) != t.size_bytes) return 0;
        if (outputs && fwrite(arena + t.offset, 1, t.size_bytes, file) != t.size_bytes) return 0;
    }
    return 1;
}

static int run_all(const struct kwsq_pack *pack, FILE *input, FILE *output) {
    if (kwsq_arena_bytes(pack) > sizeof arena) return fprintf(stderr, "arena: too small\n"), 2;
    kwsq_reset(pack, arena);
    while (transfer(pack, 0, input)) {
        if (kwsq_run(pack, arena) != KWSQ_OK) return fprintf(stderr, "an input has no value\n"), 3;
        if (!transfer(pack, 1, output)) return trouble("output");
        kwsq_step(pack, arena);
    }
    return 0;
}

int main(int argc, char **argv) {
    struct kwsq_pack pack;
    struct stat status;
    int descriptor, code = 0;
    if (argc != 2 && argc != 4) return fprintf(stderr, "usage: kwsq_main PACK [INPUT OUTPUT]\n"), 2;
    descriptor = open(argv[1], O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &status)) return trouble(argv[1]);
    void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) return trouble(argv[1]);
    if (kwsq_open(&pack, data, (size_t)status.st_size) != KWSQ_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], pack.error);
        code = 1;
    } else if (argc == 4) {
        FILE *input = fopen(argv[2], "rb"), *output = fopen(argv[3], "wb");
        code = input && output ? run_all(&pack, input, output) : trouble("input or output");
        if (input) fclose(input);
        if (output && fclose(output)) code = trouble(argv[3]);
    }
    munmap(data, (size_t)status.st_size);
    close(descriptor);
    return code;
}
