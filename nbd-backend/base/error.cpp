// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/error.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>

namespace weft {

std::string_view to_string(errc code) noexcept {
    switch (code) {
        case errc::invalid_argument: return "invalid_argument";
        case errc::not_found: return "not_found";
        case errc::already_exists: return "already_exists";
        case errc::busy: return "busy";
        case errc::no_space: return "no_space";
        case errc::io_failed: return "io_failed";
        case errc::corrupt: return "corrupt";
        case errc::stale_epoch: return "stale_epoch";
        case errc::no_quorum: return "no_quorum";
        case errc::unavailable: return "unavailable";
        case errc::timed_out: return "timed_out";
        case errc::outcome_unknown: return "outcome_unknown";
        case errc::unsupported: return "unsupported";
        case errc::shutting_down: return "shutting_down";
        case errc::conflict: return "conflict";
    }
    return "unknown";
}

error error::within(std::string_view context) const {
    return error{code, os_errno, fmt::format("{}: {}", context, text)};
}

namespace {
errc code_of(int os_errno) {
    switch (os_errno) {
        case ENOSPC:
        case EDQUOT: return errc::no_space;
        case ENOENT: return errc::not_found;
        case EEXIST: return errc::already_exists;
        case EBUSY: return errc::busy;
        case ETIMEDOUT: return errc::timed_out;
        case EINVAL: return errc::invalid_argument;
        case ENOTSUP: return errc::unsupported;
        default: return errc::io_failed;
    }
}
}  // namespace

error errno_error(int os_errno, std::string_view what) {
    return error{code_of(os_errno), os_errno, fmt::format("{}: {}", what, std::generic_category().message(os_errno))};
}

}  // namespace weft
