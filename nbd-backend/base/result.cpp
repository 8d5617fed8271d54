// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/result.hpp"

#include <stdexcept>

namespace weft {

void throw_exception_from_error(const error& e, const boost::source_location& /*where*/) {
    throw std::logic_error("value() of an error: " + e.text);
}

}  // namespace weft
