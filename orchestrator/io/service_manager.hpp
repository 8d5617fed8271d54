// SPDX-License-Identifier: Apache-2.0
// What weftd and systemd tell each other: sockets that are handed over, "ready", "stopping", a status line, and signs
// of life for the watchdog. Without systemd (no NOTIFY_SOCKET, no LISTEN_PID in the environment) nothing happens.
//
// Facts: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). Made before the first thread, since it changes the
// environment: what is started later must not take our sockets for its own. Then any thread.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

class service_manager {
public:
    service_manager() = default;

    /// Takes what systemd handed over. Errors: io_failed (the descriptors are not what LISTEN_FDS says).
    static result<service_manager> take();

    service_manager(service_manager&& other) noexcept : handed_(std::move(other.handed_)) {}
    service_manager& operator=(service_manager&&) = delete;

    /// systemd is this machine's init and runs us as a service.
    static bool runs_us();

    /// The listening socket that a socket unit with FileDescriptorName=`name` handed over; -1 when there is none. It
    /// must be bound to `path`. Ownership passes to the caller. Errors: invalid_argument (another path, not a listening
    /// stream socket: the text says what to change).
    result<int> socket(const std::string& name, const std::string& path);

    /// Start is complete: systemd goes on with what is ordered after us.
    void ready(const std::string& text);
    void stopping();
    /// A turn of the loop that does the work; `text` is for `systemctl status`.
    void alive(const std::string& text);

private:
    struct handed_socket {
        std::string name;
        unique_fd fd;
    };
    std::vector<handed_socket> handed_;
    std::mutex mutex_;
    std::string told_;  // the last status
};

}  // namespace weft
