// SPDX-License-Identifier: Apache-2.0
// A replica that failed stays failed until its server restarts: the kernel reports a lost page once, and nobody may
// take the silence afterwards for success. The first failure is told to people. Any thread.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <exception>
#include <functional>
#include <string>
#include <string_view>

namespace weft::io {

/// Tells people of a failure that no single request owns. Called from any thread.
using failure_reporter = std::function<void(const std::string& text)>;

class failure_latch {
public:
    /// `report` must outlive the latch.
    explicit failure_latch(const failure_reporter& report) noexcept : report_(report) {}

    [[nodiscard]] bool is_set() const noexcept { return set_.load(); }

    void set(std::string_view text) noexcept {
        if (set_.exchange(true)) return;
        try {
            report_(fmt::format(
                "{}: writes may be lost, so every request on this replica fails until the server restarts", text));
        } catch (const std::exception&) {
            return;  // no memory for the words; the deed is done
        }
    }

private:
    const failure_reporter& report_;
    std::atomic<bool> set_{false};
};

}  // namespace weft::io
