// SPDX-License-Identifier: Apache-2.0
// /proc/PID/mountinfo, in which every user may have put names: who holds our device mounted is read from it.
//
// Properties: an accepted text has one entry per line; written out again as the kernel writes it (proc(5): \040, \011,
// \012, \134), every entry is the same; what is refused is `corrupt`.
#include <algorithm>

#include "orchestrator/io/mountinfo.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

/// The canary loses backslashes: a directory that is called a\b becomes one that is called ab.
result<std::vector<mount_entry>> parse(std::string_view text) {
    auto entries = parse_mountinfo(text);
    if (fuzz::canary && entries.has_value())
        for (auto& entry : *entries) std::erase(entry.mount_point, '\\');
    return entries;
}

std::string escaped(std::string_view name) {
    std::string text;
    for (const char c : name) {
        if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
            text += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
        else
            text += c;
    }
    return text;
}

std::string line_of(const mount_entry& it) {
    std::string propagation;
    for (const std::string& one : it.propagation) propagation += one + " ";
    return fmt::format("{} {} {}:{} {} {} {} {}- {} {} {}", it.id, it.parent, it.device.major, it.device.minor,
                       escaped(it.root), escaped(it.mount_point), it.options, propagation, escaped(it.type),
                       escaped(it.source), it.super_options);
}

/// A line says more than an entry: fields after the tenth, and numbers with leading zeros.
bool same(const mount_entry& one, const mount_entry& other) {
    return one.id == other.id && one.parent == other.parent && one.device == other.device && one.root == other.root &&
           one.mount_point == other.mount_point && one.options == other.options &&
           one.propagation == other.propagation && one.type == other.type && one.source == other.source &&
           one.super_options == other.super_options;
}

/// The fifth field of a line, as it stands there.
std::string_view mount_point_field(std::string_view line) {
    for (int i = 0; i < 4; ++i) line.remove_prefix(line.find(' ') + 1);
    return line.substr(0, line.find(' '));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto entries = parse(text);
    if (entries.has_error()) {
        PROPERTY(entries.error().code == errc::corrupt && !entries.error().text.empty(), "no reason");
        return 0;
    }
    fuzz::feed input(data, size);
    std::size_t at = 0;
    while (!input.empty()) {
        const std::string_view line = input.until('\n');
        if (line.empty()) continue;
        PROPERTY(at < entries->size(), "line {} has no entry", at);
        const mount_entry& entry = (*entries)[at++];
        PROPERTY(unescape_mount_field(mount_point_field(line)) == entry.mount_point, "'{}' became '{}'", line,
                 entry.mount_point);
        const auto again = parse_mountinfo(line_of(entry));
        PROPERTY(again.has_value() && again->size() == 1 && same(again->front(), entry), "'{}' became '{}'", line,
                 line_of(entry));
    }
    PROPERTY(at == entries->size(), "{} entries in {} lines", entries->size(), at);
    return 0;
}
