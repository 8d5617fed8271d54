// SPDX-License-Identifier: Apache-2.0
// The small grammars: sizes, names, hosts, drive directories, percent encoding, UTF-8, printable text.
//
// Properties: a size is what an independent reading of the text with 128 bits says, and overflow is refused; UTF-8 is
// what Boost.JSON takes for UTF-8; printable text is printable; a normal form is its own normal form; percent encoding
// comes back as what it was.
#include <algorithm>
#include <optional>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/units.hpp"
#include "nbd-backend/core/export_name.hpp"
#include "orchestrator/api/admin.hpp"
#include "orchestrator/core/mount_refs.hpp"
#include "orchestrator/core/names.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
namespace json = boost::json;

namespace {

/// The canary counts in floating point.
result<std::uint64_t> parse(std::string_view text) {
    auto size = parse_size(text);
    if (fuzz::canary && size.has_value() && *size < std::uint64_t{1} << 63)
        size = static_cast<std::uint64_t>(static_cast<double>(*size));
    return size;
}

/// DIGITS [ ] [kmgtp[i][b] | b], any case, as units.hpp promises it; nothing for anything else and for overflow.
std::optional<std::uint64_t> read_size(std::string_view text) {
    std::size_t digits = 0;
    unsigned __int128 number = 0;
    while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') {
        number = number * 10 + static_cast<unsigned>(text[digits++] - '0');
        if (number >> 64 != 0) return std::nullopt;
    }
    if (digits == 0) return std::nullopt;
    std::string suffix(text.substr(digits));
    if (suffix.size() > 1 && suffix[0] == ' ') suffix.erase(0, 1);
    std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    unsigned power = 0;
    if (!suffix.empty() && suffix != "b") {
        const auto letter = std::string_view("kmgtp").find(suffix[0]);
        const std::string rest = suffix.substr(1);
        if (letter == std::string_view::npos || !(rest.empty() || rest == "i" || rest == "b" || rest == "ib"))
            return std::nullopt;
        power = static_cast<unsigned>(letter) + 1;
    }
    for (; power > 0; --power) {
        number <<= 10;
        if (number >> 64 != 0) return std::nullopt;
    }
    return static_cast<std::uint64_t>(number);
}

void check_size(std::string_view text) {
    const auto size = parse(text);
    const auto expected = read_size(text);
    PROPERTY(size.has_value() == expected.has_value(), "'{}' is {}a size", text, size.has_value() ? "" : "not ");
    if (size.has_error()) {
        PROPERTY(size.error().code == errc::invalid_argument && !size.error().text.empty(), "'{}'", text);
        return;
    }
    PROPERTY(*size == *expected, "'{}' is {}, not {}", text, *size, *expected);
    PROPERTY(!render_size(*size).empty(), "{}", *size);
}

void check_texts(std::string_view text) {
    const std::string shown = printable(text, 64);
    fuzz::check_error(error{errc::corrupt, "'" + shown + "'"}, errc::corrupt);
    const bool plain = text.find_first_of("\"\\") == std::string_view::npos &&
                       std::none_of(text.begin(), text.end(), [](char c) { return c >= 0 && c < ' '; });
    if (plain) {
        boost::system::error_code bad;
        json::parse("\"" + std::string(text) + "\"", bad);
        PROPERTY(is_utf8(text) == !bad, "is_utf8 says {} of {}", is_utf8(text), shown);
    }
    const auto back = percent_decode(percent_encode(text));
    if (text.find('\0') == std::string_view::npos) PROPERTY(back.has_value() && *back == text, "{}", shown);
    const auto decoded = percent_decode(text);
    if (decoded.has_error()) fuzz::check_error(decoded.error(), errc::invalid_argument);
}

void check_names(std::string_view text) {
    for (const auto& checked : {check_volume_name(text), check_node_name(text), check_plugin_name(text),
                                check_host(text), check_mount_id(text)})
        if (checked.has_error()) fuzz::check_error(checked.error(), errc::invalid_argument);
    if (check_volume_name(text).has_value()) {
        PROPERTY(percent_encode(text) == text, "a volume's name needs escapes in a URL: {}", text);
        PROPERTY(text != "." && text != ".." && text[0] != '-', "{}", text);
    }
    if (is_uuid(text)) PROPERTY(core::is_boot_id(text) && check_volume_name(text).has_value(), "{}", text);
    const auto path = parse_drive_path(text);
    if (path.has_error()) return fuzz::check_error(path.error(), errc::invalid_argument);
    PROPERTY((*path)[0] == '/' && path->find("//") == std::string::npos && !path->ends_with('/'), "{}", *path);
    PROPERTY((*path + "/").find("/../") == std::string::npos && (*path + "/").find("/./") == std::string::npos, "{}",
             *path);
    const auto again = parse_drive_path(*path);
    PROPERTY(again.has_value() && *again == *path, "{} is not its own normal form", *path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check_size(text);
    check_texts(text);
    check_names(text);
    return 0;
}
