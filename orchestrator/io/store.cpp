// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/store.hpp"

#include <fmt/format.h>

#include <string_view>

#include "orchestrator/core/names.hpp"
#include "orchestrator/io/sqlite_store.hpp"

namespace weft {

result<std::unique_ptr<store>> open_store(const std::string& url) {
    constexpr std::string_view sqlite_scheme = "sqlite:";
    if (url.starts_with(sqlite_scheme)) return open_sqlite_store(url.substr(sqlite_scheme.size()));
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a store: write sqlite:/path/to/file.db", printable(url, 80))};
}

}  // namespace weft
