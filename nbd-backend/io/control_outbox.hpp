// SPDX-License-Identifier: Apache-2.0
// What the engines have to tell weftd, queued until the control thread sends it.
//
// Proposals keep the engines' order and stay until they are answered, however often weftd comes and goes (R4). They get
// ids of their own, because every engine counts from 1. Because a proposal is sent in order and once per connection, a
// promotion and a later demotion of one replica cannot swap. Notices are bounded: without weftd the oldest are dropped,
// and the drop is told.
//
// Thread rule: any thread; the mutex is a leaf, held for list work only, so callers may hold an engine's mutex.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/core/control_message.hpp"
#include "nbd-backend/io/engine_host.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

class control_outbox final : public outbox {
public:
    /// `extents`: of the volume; notices name the extent when there are several.
    control_outbox(wakeup& bell, std::size_t extents) : bell_(bell), extents_(extents) {}

    void propose(std::uint32_t extent, const replica_id& replica, const core::proposal& what) override;
    void notify(std::uint32_t extent, const core::notice& what) override;
    void changed() override;
    void flush() override { bell_.ring(); }

    /// A notice of the volume server itself.
    void notify(core::notice what);

    /// Appends the unanswered proposals with an id above `after`, in order; returns the highest id.
    std::uint64_t proposals_after(std::uint64_t after, std::vector<core::propose_message>& out) const;
    /// Takes the queued notices.
    void take_notices(std::vector<core::notice>& out);
    /// Was changed() called since the last call?
    [[nodiscard]] bool take_changed();

    struct addressee {
        std::uint32_t extent = 0;
        std::uint64_t id = 0;  // of the engine's proposal
    };
    /// A proposal has its definite answer: whose it was; nothing if it is not pending (an answer that came twice).
    std::optional<addressee> answered(std::uint64_t id);

private:
    static constexpr std::size_t notices_max = 256;

    struct pending {
        core::propose_message message;
        std::uint64_t engine_id = 0;
    };

    wakeup& bell_;
    const std::size_t extents_;
    mutable std::mutex mutex_;
    std::map<std::uint64_t, pending> pending_;
    std::uint64_t next_id_ = 1;
    std::deque<core::notice> notices_;
    std::uint64_t dropped_notices_ = 0;
    bool changed_ = true;
};

}  // namespace weft::io
