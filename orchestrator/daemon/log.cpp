// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/log.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>

#include "orchestrator/core/names.hpp"

namespace weft {

namespace {
constexpr std::size_t text_max = 2000;  // characters of one message or value
std::atomic<log_level> lowest{log_level::info};
}  // namespace

void set_log_level(log_level level) {
    lowest = level;
}

void log(log_level level, std::string_view component, std::string_view message,
         std::initializer_list<log_field> fields) {
    if (level < lowest.load(std::memory_order_relaxed)) return;
    std::string line = fmt::format("{} {} {}", to_string(level), component, printable(message, text_max));
    for (const auto& [key, value] : fields) line += fmt::format(" {}={}", key, printable(value, text_max));
    line += '\n';
    // A log that cannot be written (disk full, reader gone) must not stop the service.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace weft
