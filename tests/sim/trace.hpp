// SPDX-License-Identifier: Apache-2.0
// What happened, for people, and how a violation is reported. A run is silent at first; one that fails is run again
// under the same seed with `on`, and printed as it goes (so that an INVARIANT's abort has its trace too).
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "tests/sim/schedule.hpp"

namespace weft::sim {

/// A law is broken, or the model itself: the text says which.
struct violation : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class trace {
public:
    static constexpr std::uint64_t no_block = ~std::uint64_t{0};

    /// `watched`: a block whose every access is told, too.
    trace(const schedule& time, bool on, std::uint64_t watched) : time_(time), on_(on), watched_(watched) {}

    template <typename... Args>
    void say(fmt::format_string<Args...> format, Args&&... args) const {
        if (on_) print(fmt::format(format, std::forward<Args>(args)...));
    }
    [[nodiscard]] bool watches(std::uint64_t block) const { return on_ && block == watched_; }

    template <typename... Args>
    [[noreturn]] void blame(fmt::format_string<Args...> format, Args&&... args) const {
        const std::string text = fmt::format(format, std::forward<Args>(args)...);
        if (on_) print("VIOLATION " + text);
        throw violation(text);
    }

private:
    void print(const std::string& text) const {
        std::printf("%9.3f ms  %s\n", static_cast<double>(time_.now().count()) / 1e6, text.c_str());
        std::fflush(stdout);
    }

    const schedule& time_;
    bool on_;
    std::uint64_t watched_;
};

}  // namespace weft::sim
