// SPDX-License-Identifier: Apache-2.0
// Export names and export descriptions: what two machines of different versions say to each other in text.
//
// Properties: a name that parses renders to the same bytes; a description that parses, rendered, is the beginning of
// what was parsed (a later version may say more) and parses to the same value; what is refused has a text that names
// it.
#include "nbd-backend/core/export_name.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::core;

namespace {

/// The canary takes a sign before the epoch for nothing: many spellings for one name.
result<export_name> parse_name(std::string_view text) {
    const auto slash = text.find('/');
    if (fuzz::canary && slash < text.size() - 1 && (text[slash + 1] < '0' || text[slash + 1] > '9'))
        return parse_export_name(std::string(text.substr(0, slash + 1)) + std::string(text.substr(slash + 2)));
    return parse_export_name(text);
}

void check_name(std::string_view text) {
    const auto name = parse_name(text);
    if (name.has_error()) return fuzz::check_error(name.error(), errc::invalid_argument);
    PROPERTY(render(*name) == text, "'{}' became '{}'", text, render(*name));
}

void check_description(std::string_view text) {
    const auto said = parse_export_description(text);
    if (said.has_error()) {
        const bool later = said.error().code == errc::unsupported;
        return fuzz::check_error(said.error(), later ? errc::unsupported : errc::corrupt);
    }
    const std::string again = render(*said);
    PROPERTY(text.starts_with(again), "'{}' became '{}'", text, again);
    PROPERTY(text.size() == again.size() || text[again.size()] == ' ', "'{}' became '{}'", text, again);
    const auto twice = parse_export_description(again);
    PROPERTY(twice.has_value() && *twice == *said, "'{}' is not what it was", again);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check_name(text);
    check_description(text);
    return 0;
}
