// SPDX-License-Identifier: Apache-2.0
// Where the volume servers' proposals (R4, R8) become commits: one thread, one after the other, until each has a
// definite answer.
//
// While the store does not answer, the oldest proposal is tried again after retry_pause, and nothing is answered: the
// engine keeps holding (R4). A proposal whose server is gone is dropped; one that a server repeats after a reconnect is
// not queued twice. Each change of a replica's state is an event.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "orchestrator/daemon/control_link.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/volume_records.hpp"

namespace weft {

class proposal_desk {
public:
    struct entry {
        std::weak_ptr<control_link> from;
        std::string volume;
        volume_id id;
        std::uint64_t epoch = 0;
        core::propose_message proposal;
    };

    /// `on_commit` is called after every commit (members and observers must learn of it).
    proposal_desk(volume_records& records, event_log& events, node_name me, std::function<void()> on_commit);
    ~proposal_desk();
    proposal_desk(const proposal_desk&) = delete;
    proposal_desk& operator=(const proposal_desk&) = delete;

    /// Never blocks.
    void hand_in(entry what);

private:
    void run();
    /// False: no definite answer yet.
    bool decide(const entry& what);
    void tell(const entry& what, const volume_record& record, replica_state before);

    volume_records& records_;
    event_log& events_;
    const node_name me_;
    const std::function<void()> on_commit_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<entry> queue_;
    bool stopping_ = false;
    std::string last_trouble_;  // worker's thread only
    std::thread worker_;        // last
};

}  // namespace weft
