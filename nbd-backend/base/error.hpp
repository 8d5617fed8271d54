// SPDX-License-Identifier: Apache-2.0
// The error value that every fallible function of Weft returns.
//
// Law: a code exists only if some caller acts differently on it; detail goes to the text. Text grows outward, the
// outermost context first: "attach volume 'db': start volume server: fork: Cannot allocate memory".
// Values only: no allocation beyond the text, no locale, usable from any thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace weft {

enum class errc {
    invalid_argument = 1,  // the caller's input is wrong; nothing was changed
    not_found,
    already_exists,
    busy,  // in use by somebody else; the text names who
    no_space,
    io_failed,    // the operating system refused; os_errno says why
    corrupt,      // stored bytes contradict their checksum or their grammar
    stale_epoch,  // R5: a higher epoch exists; never retry under the old one
    no_quorum,    // too few up_to_date replicas, nodes or drives to go on
    unavailable,  // the store or a peer does not answer now; try again later
    timed_out,
    outcome_unknown,  // the change may or may not have been made; read before acting
    unsupported,
    shutting_down,
    conflict,  // compare-and-swap lost; read again and decide again
};

/// The code's name as it appears in logs and JSON ("stale_epoch").
std::string_view to_string(errc code) noexcept;

struct error {
    errc code = errc::io_failed;
    int os_errno = 0;  // errno of the failed call, 0 if there was none
    std::string text;  // for people; ends without a full stop

    error() = default;
    error(errc c, std::string t) : code(c), text(std::move(t)) {}
    error(errc c, int e, std::string t) : code(c), os_errno(e), text(std::move(t)) {}

    /// The same error, "context: " put before its text.
    [[nodiscard]] error within(std::string_view context) const;
};

/// An error from errno: the text gets strerror appended, the code is chosen from the errno (ENOSPC -> no_space, ENOENT
/// -> not_found, EEXIST -> already_exists, EBUSY -> busy, else io_failed).
error errno_error(int os_errno, std::string_view what);

}  // namespace weft
