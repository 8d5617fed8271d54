// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/fuzz.hpp"

#include <cstdio>
#include <cstdlib>

#include "orchestrator/core/names.hpp"

namespace weft::fuzz {

namespace json = boost::json;

void violated(std::string_view condition, const std::string& text) {
    std::fputs(fmt::format("PROPERTY violated: {}: {}\n", condition, printable(text, 2000)).c_str(), stderr);
    std::abort();
}

void check_error(const error& problem, errc allowed) {
    PROPERTY(problem.code == allowed, "code {} instead of {}", to_string(problem.code), to_string(allowed));
    PROPERTY(!problem.text.empty(), "an error without a text");
    PROPERTY(is_utf8(problem.text), "not UTF-8: {}", problem.text);
    for (const char c : problem.text)
        PROPERTY(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a control character in: {}", problem.text);
}

namespace {

/// The text as a careful encoder may have made it.
bool is_text_of(std::string_view input, std::string_view output) {
    if (input == output) return true;
    if (input.size() != output.size()) return false;
    for (std::size_t i = 0; i < input.size(); ++i) {
        const bool plain = input[i] >= ' ' && input[i] <= '~';
        if (output[i] != (plain ? input[i] : '?')) return false;
    }
    return true;
}

}  // namespace

void check_says_the_same(const json::value& input, const json::value& output) {
    if (output.is_object() && input.is_object()) {
        for (const auto& [key, value] : output.get_object())
            if (const json::value* found = input.get_object().if_contains(key)) check_says_the_same(*found, value);
    } else if (output.is_array() && input.is_array()) {
        PROPERTY(input.get_array().size() == output.get_array().size(), "{} became {}", json::serialize(input),
                 json::serialize(output));
        for (std::size_t i = 0; i < output.get_array().size(); ++i)
            check_says_the_same(input.get_array()[i], output.get_array()[i]);
    } else if (output.is_string() && input.is_string()) {
        PROPERTY(is_text_of(input.get_string(), output.get_string()), "{} became {}", json::serialize(input),
                 json::serialize(output));
    } else {
        PROPERTY(input == output, "{} became {}", json::serialize(input), json::serialize(output));
    }
}

void check_says_the_same(std::string_view input, std::string_view output) {
    check_says_the_same(json::parse(json::string_view(input.data(), input.size())),
                        json::parse(json::string_view(output.data(), output.size())));
}

}  // namespace weft::fuzz
