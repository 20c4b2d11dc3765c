/* The container: header, section table, digests. What they hold is checked in kwsq_check.c. */
#include "kwsq_records.h"

enum { HEADER_BYTES = 64, ENTRY_BYTES = 48, ALIGNMENT = 16, GRAPH_HEADER_BYTES = 16 };

static enum kwsq_status refuse(struct kwsq_pack *pack, enum kwsq_section section, const char *error) {
    pack->section = section;
    pack->error = error;
    return KWSQ_DAMAGED;
}

static uint32_t aligned(uint32_t n) { return (n + (ALIGNMENT - 1)) & ~(uint32_t)(ALIGNMENT - 1); }

static int all_zero(const uint8_t *data, uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; i++)
        if (data[i]) return 0;
    return 1;
}

static const char *header_fault(const uint8_t *data, size_t size) {
    if (size < HEADER_BYTES || size > 0xFFFFFFF0u) return "header: too short or too long for a pack";
    if (memcmp(data, "KWSQPACK", 8)) return "header: no magic";
    if (kwsq_u16(data + 8) != 1 || kwsq_u16(data + 10) != 0) return "header: another version";
    if (kwsq_u32(data + 12) != 0x0A0B0C0Du) return "header: another byte order";
    if (kwsq_u32(data + 16) != size) return "header: another length than the file's";
    if (kwsq_u32(data + 24) != ALIGNMENT || kwsq_u32(data + 28)) return "header: alignment or reserved field";
    return NULL;
}

static enum kwsq_status read_sections(struct kwsq_pack *pack) {
    const uint8_t *data = pack->file.data;
    uint32_t size = pack->file.size, count = kwsq_u32(data + 20), before = 0;
    if (count == 0 || count >= KWSQ_SECTION_COUNT || size < HEADER_BYTES + ENTRY_BYTES * count)
        return refuse(pack, KWSQ_HEADER, "header: number of sections");
    uint32_t position = HEADER_BYTES + ENTRY_BYTES * count;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = data + HEADER_BYTES + ENTRY_BYTES * i;
        uint32_t type = kwsq_u32(entry), offset = kwsq_u32(entry + 4), length = kwsq_u32(entry + 8);
        uint32_t start = aligned(position);
        uint8_t digest[32];
        if (type <= before || type >= KWSQ_SECTION_COUNT)
            return refuse(pack, KWSQ_HEADER, "section table: types do not rise");
        enum kwsq_section section = (enum kwsq_section)type;
        if (offset != start || start > size || length > size - start || kwsq_u32(entry + 12))
            return refuse(pack, section, "section: not where the one before it ends, or beyond the file");
        if (!all_zero(data, position, start)) return refuse(pack, section, "section: padding before it is not zero");
        kwsq_sha256(data + offset, length, digest);
        if (memcmp(digest, entry + 16, 32)) return refuse(pack, section, "section: another SHA-256");
        pack->sections[type].data = data + offset;
        pack->sections[type].size = length;
        before = type;
        position = offset + length;
    }
    if (aligned(position) != size || !all_zero(data, position, size))
        return refuse(pack, KWSQ_HEADER, "end of the file: bytes after the last section");
    return KWSQ_OK;
}

enum kwsq_status kwsq_open(struct kwsq_pack *pack, const void *data, size_t size) {
    uint8_t digest[32];
    const char *fault = header_fault(data, size);
    memset(pack, 0, sizeof *pack);
    if (fault) return refuse(pack, KWSQ_HEADER, fault);
    pack->file.data = data;
    pack->file.size = (uint32_t)size;
    if (read_sections(pack) != KWSQ_OK) return KWSQ_DAMAGED;
    kwsq_sha256_blank(data, size, digest);
    if (memcmp(digest, pack->file.data + 32, 32)) return refuse(pack, KWSQ_HEADER, "header: another SHA-256");
    if (pack->sections[KWSQ_MANIFEST].size == 0) return refuse(pack, KWSQ_MANIFEST, "manifest: missing");
    struct kwsq_span graph = pack->sections[KWSQ_GRAPH];
    if (graph.size < GRAPH_HEADER_BYTES) return refuse(pack, KWSQ_GRAPH, "graph: missing or too short");
    pack->tensor_count = kwsq_u16(graph.data);
    pack->operator_count = kwsq_u16(graph.data + 2);
    pack->layer_count = kwsq_u16(graph.data + 4);
    pack->dimension_count = kwsq_u32(graph.data + 8);
    pack->activation_bytes = kwsq_u32(graph.data + 12);
    return kwsq_check(pack) ? KWSQ_OK : KWSQ_DAMAGED;
}

size_t kwsq_arena_bytes(const struct kwsq_pack *pack) {
    return (size_t)pack->activation_bytes + pack->row_bytes;
}
