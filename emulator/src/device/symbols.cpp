#include "symbols.h"
#include <elf.h>
#include <link.h>
#include <cstdio>
#include <cstring>
#include <vector>

namespace emulator {

struct Symbol {
    uintptr_t value, bytes;
    bool is_thread_local;
    std::string name;
};

static std::vector<char> read_executable() {
    std::vector<char> bytes;
    FILE* file = std::fopen("/proc/self/exe", "rb");
    if (!file) return bytes;
    char part[65536];
    size_t got;
    while ((got = std::fread(part, 1, sizeof(part), file)) > 0) bytes.insert(bytes.end(), part, part + got);
    std::fclose(file);
    return bytes;
}

static std::vector<Symbol> read_symbols() {
    std::vector<Symbol> symbols;
    const std::vector<char> file = read_executable();
    if (file.size() < sizeof(ElfW(Ehdr)) || std::memcmp(file.data(), ELFMAG, SELFMAG) != 0) return symbols;
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file.data());
    const auto inside = [&](uint64_t offset, uint64_t bytes) {
        return offset <= file.size() && bytes <= file.size() - offset;
    };
    if (!inside(header->e_shoff, uint64_t(header->e_shnum) * sizeof(ElfW(Shdr)))) return symbols;
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file.data() + header->e_shoff);
    for (unsigned i = 0; i < header->e_shnum; i++) {
        const auto& table = sections[i];
        if (table.sh_type != SHT_SYMTAB || table.sh_link >= header->e_shnum) continue;
        const auto& names = sections[table.sh_link];
        if (!inside(table.sh_offset, table.sh_size) || !inside(names.sh_offset, names.sh_size)) continue;
        const auto* entries = reinterpret_cast<const ElfW(Sym)*>(file.data() + table.sh_offset);
        for (size_t k = 0; k < table.sh_size / sizeof(ElfW(Sym)); k++) {
            const unsigned type = entries[k].st_info & 15u;
            if ((type != STT_FUNC && type != STT_TLS) || entries[k].st_size == 0) continue;
            if (entries[k].st_name >= names.sh_size) continue;
            symbols.push_back({entries[k].st_value, entries[k].st_size, type == STT_TLS,
                               file.data() + names.sh_offset + entries[k].st_name});
        }
    }
    return symbols;
}

static const std::vector<Symbol>& symbols() {
    static const std::vector<Symbol> all = read_symbols();
    return all;
}

static std::string find(uintptr_t value, bool is_thread_local, uintptr_t* offset) {
    for (const Symbol& s : symbols()) {
        if (s.is_thread_local == is_thread_local && value - s.value < s.bytes) {
            *offset = value - s.value;
            return s.name;
        }
    }
    return "";
}

uintptr_t image_offset(const void* pc) {
    static const uintptr_t base = [] {
        uintptr_t found = 0;
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* to) {
                *static_cast<uintptr_t*>(to) = info->dlpi_addr;
                return 1;
            },
            &found);
        return found;
    }();
    return reinterpret_cast<uintptr_t>(pc) - base;
}

std::string symbol_at(uintptr_t address, uintptr_t* offset) {
    return find(image_offset(reinterpret_cast<const void*>(address)), false, offset);
}

size_t static_shared_bytes(uintptr_t kernel) {
    uintptr_t offset = 0;
    const std::string name = symbol_at(kernel, &offset);
    if (name.compare(0, 2, "_Z") != 0) return 0;
    const std::string prefix = "_ZZ" + name.substr(2) + "E";  // how the ABI names a function's local variables
    size_t bytes = 0;
    for (const Symbol& s : symbols()) {
        if (s.is_thread_local && s.name.compare(0, prefix.size(), prefix) == 0) bytes += (s.bytes + 15) / 16 * 16;
    }
    return bytes;
}

std::string thread_local_at(uintptr_t block_offset, uintptr_t* offset) { return find(block_offset, true, offset); }

bool inside_thread_local(uintptr_t block_offset, size_t bytes) {
    static const std::vector<Symbol> variables = [] {
        std::vector<Symbol> found;
        for (const Symbol& s : symbols()) {
            if (s.is_thread_local) found.push_back(s);
        }
        return found;
    }();
    for (const Symbol& s : variables) {
        if (block_offset - s.value < s.bytes) return block_offset + bytes <= s.value + s.bytes;
    }
    return variables.empty();
}

}  // namespace emulator
