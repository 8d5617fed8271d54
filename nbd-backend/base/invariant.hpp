// SPDX-License-Identifier: Apache-2.0
// INVARIANT: a programmer's error stops the process, in release builds too.
//
// A dead export is recoverable (the engine on the other side demotes it, R4); a wrong write is not.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace weft {

/// Prints file, line, the condition and the text on standard error, then aborts.
[[noreturn]] void invariant_failed(const char* file, int line, const char* condition, std::string_view text) noexcept;

}  // namespace weft

/// INVARIANT(condition, "format {}", args...)
#define INVARIANT(condition, ...)                                                                 \
    do {                                                                                          \
        if (!(condition)) [[unlikely]]                                                            \
            ::weft::invariant_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
    } while (false)
