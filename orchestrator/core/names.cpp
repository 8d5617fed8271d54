// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/names.hpp"

#include <fmt/format.h>

namespace weft {

namespace {

bool is_alphanumeric(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_control(char c) noexcept {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
}

/// Bytes of the UTF-8 sequence that `text` begins with, 0 if it is malformed. RFC 3629, table of section 4.
std::size_t sequence_length(std::string_view text) noexcept {
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const auto continues = [&](std::size_t i) { return i < text.size() && (at(i) & 0xc0) == 0x80; };
    const unsigned char first = at(0);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        if (!continues(1) || !continues(2)) return 0;
        if (first == 0xe0 && at(1) < 0xa0) return 0;  // overlong
        if (first == 0xed && at(1) > 0x9f) return 0;  // surrogate
        return 3;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        if (!continues(1) || !continues(2) || !continues(3)) return 0;
        if (first == 0xf0 && at(1) < 0x90) return 0;  // overlong
        if (first == 0xf4 && at(1) > 0x8f) return 0;  // beyond U+10FFFF
        return 4;
    }
    return 0;
}

std::string escaped(std::string_view character) {
    const char c = character[0];
    if (c == '\n') return "\\n";
    if (c == '\r') return "\\r";
    if (c == '\t') return "\\t";
    if (c == '\\') return "\\\\";
    if (is_control(c)) return fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    return std::string(character);
}

status check_word(std::string_view kind, std::string_view name, std::size_t max) {
    const auto refuse = [&](std::string_view problem) {
        return error{errc::invalid_argument,
                     fmt::format("'{}' is not a {} name: {}; allowed are 1 to {} letters, digits, '_', '.' and '-', "
                                 "beginning with a letter or digit",
                                 printable(name), kind, problem, max)};
    };
    if (name.empty()) return refuse("it is empty");
    for (const char c : name)
        if (!is_alphanumeric(c) && c != '_' && c != '.' && c != '-')
            return refuse(static_cast<unsigned char>(c) >= 0x80
                              ? std::string("it has a character that is not ASCII")
                              : fmt::format("it has the character '{}'", escaped(std::string_view(&c, 1))));
    if (!is_alphanumeric(name[0])) return refuse(fmt::format("it begins with '{}'", name[0]));
    if (name.size() > max) return refuse(fmt::format("it has {} characters", name.size()));
    return ok();
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
    while (!text.empty()) {
        const std::size_t length = sequence_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::string printable(std::string_view text, std::size_t max) {
    std::string shown;
    for (std::size_t characters = 0; !text.empty(); ++characters) {
        if (characters == max) return shown + "…";
        const std::size_t length = sequence_length(text);
        if (length == 0) {
            shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
            text.remove_prefix(1);
            continue;
        }
        // U+0080..U+009F are control characters too: a terminal may obey them.
        const bool c1 = length == 2 && text[0] == '\xc2' && static_cast<unsigned char>(text[1]) < 0xa0;
        shown += c1 ? fmt::format("\\u{:04x}", static_cast<unsigned char>(text[1])) : escaped(text.substr(0, length));
        text.remove_prefix(length);
    }
    return shown;
}

status check_volume_name(std::string_view name) {
    return check_word("volume", name, volume_name_max);
}
status check_node_name(std::string_view name) {
    return check_word("node", name, node_name_max);
}
status check_plugin_name(std::string_view name) {
    return check_word("plugin", name, plugin_name_max);
}

status check_host(std::string_view host) {
    bool good = !host.empty() && host.size() <= host_max && (is_alphanumeric(host[0]) || host[0] == ':');
    for (const char c : host) good = good && (is_alphanumeric(c) || c == '.' || c == '-' || c == ':');
    if (good) return ok();
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a host: write an IP address or a host name, such as 192.0.2.7, 2001:db8::7 "
                             "or storage7.example.net",
                             printable(host))};
}

result<std::string> parse_drive_path(std::string_view text) {
    const auto refuse = [whole = text](std::string_view problem) {  // text itself is consumed below
        return error{errc::invalid_argument,
                     fmt::format("'{}' is not a drive's directory: {}; write an absolute path such as /srv/weft/disk1",
                                 printable(whole, 80), problem)};
    };
    if (text.empty()) return refuse("it is empty");
    if (text.size() > drive_path_max) return refuse(fmt::format("it is longer than {} bytes", drive_path_max));
    if (text[0] != '/') return refuse("it is relative");
    if (!is_utf8(text)) return refuse("it is not UTF-8");
    std::string path;
    while (!text.empty()) {
        text.remove_prefix(1);  // the slash
        const std::string_view component = text.substr(0, text.find('/'));
        text.remove_prefix(component.size());
        if (component.empty()) continue;
        if (component == "." || component == "..") return refuse(fmt::format("it has a '{}' in it", component));
        for (const char c : component)
            if (is_control(c)) return refuse("it has a control character in it");
        path += '/';
        path += component;
    }
    if (path.empty()) return refuse("the root directory cannot be a drive");
    return path;
}

}  // namespace weft
