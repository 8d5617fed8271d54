// SPDX-License-Identifier: Apache-2.0
// What the fuzzers share: how a broken property is told, and the properties that every decoder has.
//
// A fuzzer is libFuzzer around LLVMFuzzerTestOneInput (LLVM's "libFuzzer" documentation). Beside crashes and what the
// sanitizers see, each checks the laws that its file's head states, by PROPERTY. With WEFT_FUZZ_CANARY the same file
// wraps the decoder into one that has a plausible bug: tests/run wants it found, which proves that the fuzzer reaches
// deep inputs and that its properties can see. Product code knows nothing of this.
#pragma once

#include <boost/json.hpp>
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "nbd-backend/base/error.hpp"

namespace weft::fuzz {

#ifdef WEFT_FUZZ_CANARY
inline constexpr bool canary = true;
#else
inline constexpr bool canary = false;
#endif

/// Says what was violated and aborts: libFuzzer keeps the input.
[[noreturn]] void violated(std::string_view condition, const std::string& text);

/// An input as bytes that are consumed from the front; reading past the end gives zeros.
class feed {
public:
    feed(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

    std::uint8_t byte() {
        if (rest_.empty()) return 0;
        const auto first = static_cast<std::uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        return first;
    }
    /// Two bytes, the higher first.
    std::uint16_t number() {
        const unsigned high = byte();
        return static_cast<std::uint16_t>(high << 8 | byte());
    }
    /// At most `size` bytes; fewer at the end.
    std::string_view bytes(std::size_t size) {
        const std::string_view front = rest_.substr(0, size);
        rest_.remove_prefix(front.size());
        return front;
    }
    /// Up to the separator, which is consumed too; everything when there is none.
    std::string_view until(char separator) {
        const std::size_t end = rest_.find(separator);
        const std::string_view front = rest_.substr(0, end);
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
        return front;
    }
    std::string_view rest() { return std::exchange(rest_, {}); }
    [[nodiscard]] bool empty() const { return rest_.empty(); }

private:
    std::string_view rest_;
};

/// An error may reach a log, a terminal and JSON: its text is there, is UTF-8 and obeys no control character.
void check_error(const error& problem, errc allowed);

/// Everything that `output` says, `input` said: a field of an object that both have is equal, arrays have the same
/// length. Texts are equal up to '?' in place of what is not printable ASCII.
void check_says_the_same(const boost::json::value& input, const boost::json::value& output);
void check_says_the_same(std::string_view input, std::string_view output);

}  // namespace weft::fuzz

#define PROPERTY(condition, ...)                                                      \
    do {                                                                              \
        if (!(condition)) weft::fuzz::violated(#condition, fmt::format(__VA_ARGS__)); \
    } while (false)
