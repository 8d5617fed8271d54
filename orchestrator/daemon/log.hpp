// SPDX-License-Identifier: Apache-2.0
// weftd's log: one line per fact on standard error, `<level> <component> message key=value ...`.
//
// Only programs log, and only once per fact (libraries return errors). Values are made printable, so that a name from
// outside can neither break a line nor forge one. One write(2) per line: lines of several threads never mix.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "orchestrator/core/daemon_options.hpp"

namespace weft {

using log_field = std::pair<std::string_view, std::string>;

/// Lines below `level` are dropped. Any thread; takes effect at once.
void set_log_level(log_level level);

void log(log_level level, std::string_view component, std::string_view message,
         std::initializer_list<log_field> fields = {});

}  // namespace weft
