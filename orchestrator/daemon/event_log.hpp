// SPDX-License-Identifier: Apache-2.0
// Events for people: into the store for `weft events`, and one line each into the log.
//
// emit() never waits: a thread of its own writes to the store. During an outage the newest events_kept events wait in
// memory (older ones are dropped, their number is told). They are lost if weftd is killed before the store is back: the
// log has them all the same. Who writes also trims, now and then, so that the newest events_kept stay in the store.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "orchestrator/api/service.hpp"
#include "orchestrator/core/event_record.hpp"
#include "orchestrator/io/store.hpp"

namespace weft {

class event_log {
public:
    event_log(store& target, node_name me);
    /// Gives the store one last chance to take what is waiting.
    ~event_log();
    event_log(const event_log&) = delete;
    event_log& operator=(const event_log&) = delete;

    /// Any thread; never blocks on the store.
    void emit(severity level, std::string subject, std::string text);

    /// The newest `count` of the cluster, oldest first, those that wait here included. Errors: the store's.
    result<std::vector<event_view>> newest(std::size_t count);

private:
    void run();
    bool flush_some();
    void trim_now_and_then(std::size_t written);

    store& target_;
    const node_name me_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<event_record> waiting_;
    std::uint64_t sequence_ = 0;
    std::uint64_t dropped_ = 0;
    bool stopping_ = false;
    std::size_t since_trim_ = 0;  // writer's thread only
    std::thread writer_;          // last member: starts when everything else exists
};

}  // namespace weft
