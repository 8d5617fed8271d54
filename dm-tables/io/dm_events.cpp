// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/dm_events.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dm-ioctl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "dm-tables/io/dm_driver.hpp"

namespace weft::dm {

result<event_watch> event_watch::open() {
    TRY(driver::check_available());
    const int fd = ::open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno_error(errno, "open /dev/mapper/control");
    event_watch watch(fd);
    TRY(watch.arm());
    return watch;
}

event_watch::~event_watch() {
    if (fd_ >= 0) (void)::close(fd_);
}

event_watch::event_watch(event_watch&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

status event_watch::arm() const {
    dm_ioctl request{};
    request.version[0] = DM_VERSION_MAJOR;
    request.version[1] = 37;  // the first that has this command; the kernel refuses a newer one than its own
    request.data_size = sizeof(request);
    if (::ioctl(fd_, DM_DEV_ARM_POLL, &request) == 0) return ok();
    if (errno == ENOTTY || errno == EINVAL)
        return error{errc::unsupported, errno,
                     "this kernel cannot tell of device-mapper's events; it needs Linux 4.13"};
    return errno_error(errno, "arm the watch on device-mapper's events");
}

result<std::uint32_t> wait_for_event(const std::string& name, std::uint32_t seen, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    TRY_ASSIGN(const event_watch watch, event_watch::open());
    while (true) {
        TRY(watch.arm());
        TRY_ASSIGN(const auto it, driver::info(name));
        if (!it) return error{errc::not_found, fmt::format("device {} is not there", name)};
        if (it->event_number != seen) return it->event_number;
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
        if (left <= 0)
            return error{errc::timed_out, fmt::format("device {} had no event in {} ms", name, limit.count())};
        pollfd one{watch.descriptor(), POLLIN, 0};
        if (::poll(&one, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000))) < 0 && errno != EINTR)
            return errno_error(errno, "poll device-mapper's events");
    }
}

}  // namespace weft::dm
