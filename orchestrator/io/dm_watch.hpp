// SPDX-License-Identifier: Apache-2.0
// Hears from the kernel that something happened to a device-mapper device: a leg failed, a rebuild came to its end.
//
// Which device is not told, and a table that we swap ourselves is an event, too: the caller looks at its own devices.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "dm-tables/io/dm_events.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

class dm_watch {
public:
    /// `on_event` runs on the watch's own thread, one call at a time, and must not destroy the watch. The first call
    /// comes at once. Errors: as dm::event_watch::open.
    static result<std::unique_ptr<dm_watch>> start(std::function<void()> on_event);
    /// No callback runs afterwards.
    ~dm_watch();
    dm_watch(const dm_watch&) = delete;
    dm_watch& operator=(const dm_watch&) = delete;

private:
    dm_watch(dm::event_watch events, std::function<void()> on_event);
    void loop();

    const dm::event_watch events_;
    const std::function<void()> on_event_;
    const unique_fd stop_;
    std::thread thread_;
};

}  // namespace weft
