// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/invariant.hpp"

#include <cstdio>
#include <cstdlib>

namespace weft {

void invariant_failed(const char* file, int line, const char* condition, std::string_view text) noexcept {
    (void)std::fprintf(stderr, "weft: %s:%d: invariant broken: %s: %.*s\n", file, line, condition,
                       static_cast<int>(text.size()), text.data());
    std::abort();
}

}  // namespace weft
