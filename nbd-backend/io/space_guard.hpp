// SPDX-License-Identifier: Apache-2.0
// Refuses what would fill a drive to the last byte, before anything of it is done.
//
// Why: a write that meets "no space" half-way leaves a replica that differs from the others, and a file system without
// any free block fails at odd places. So a reserve is kept, and a write that may need new space asks here first:
//
//   free - reserve   much: a look at the file system buys a credit that later writes only count down (no system call)
//                    little: every write looks, and counts as under way until it is over
//                    less than the write: refused
//
// The credit is a quarter of what was free, so that writes that are under way when it was bought, and somebody else's,
// do not use up the rest unseen. A look that fails refuses nothing: the file system itself will.
// Law: with nobody else on the file system, the granted bytes that are not yet written never exceed what is free above
// the reserve. Thread rule: everything from any thread; lock-free while there is much space.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"
#include "nbd-backend/io/drive_dir.hpp"

namespace weft::io {

/// What is kept free of a file system of this size.
std::uint64_t space_reserve_bytes(std::uint64_t size_bytes) noexcept;

class space_guard {
public:
    /// With less than this above the reserve every write looks.
    static constexpr std::uint64_t low_bytes = gib;
    static constexpr std::uint64_t credit_max_bytes = 4 * gib;

    using look = std::function<result<drive_space>()>;
    explicit space_guard(look measure) : measure_(std::move(measure)) {}

    /// Leave to use new space, to be kept while it is being used.
    class grant {
    public:
        explicit grant(bool given, space_guard* owner = nullptr, std::uint64_t bytes = 0) noexcept
            : owner_(owner), bytes_(bytes), given_(given) {}
        grant(const grant&) = delete;
        grant& operator=(const grant&) = delete;
        ~grant() {
            if (owner_ != nullptr) owner_->under_way_.fetch_sub(bytes_);
        }
        explicit operator bool() const noexcept { return given_; }

    private:
        space_guard* owner_;
        std::uint64_t bytes_;
        bool given_;
    };

    [[nodiscard]] grant ask(std::uint64_t bytes) noexcept;

private:
    [[nodiscard]] grant ask_by_looking(std::uint64_t bytes) noexcept;

    const look measure_;
    std::atomic<std::int64_t> credit_{0};
    std::atomic<std::uint64_t> under_way_{0};  // of grants that were given by looking
    std::mutex mutex_;                         // one looks at a time, and sees the grants of those before
};

}  // namespace weft::io
