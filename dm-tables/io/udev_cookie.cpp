// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/udev_cookie.hpp"

#include <libdevmapper.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/sem.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <memory>
#include <utility>

namespace weft::dm {

namespace {

/// Where systemd-udevd keeps a file while it has events: what `udevadm settle` watches (udev_queue_get_queue_is_empty).
constexpr const char* udev_folder = "/run/udev";
constexpr const char* udev_queue = "/run/udev/queue";

class descriptor {
public:
    explicit descriptor(int fd) : fd_(fd) {}
    ~descriptor() {
        if (fd_ >= 0) (void)::close(fd_);
    }
    descriptor(const descriptor&) = delete;
    descriptor& operator=(const descriptor&) = delete;
    [[nodiscard]] int get() const { return fd_; }

private:
    int fd_;
};

}  // namespace

udev_cookie::~udev_cookie() {
    if (cookie_ == 0) return;
    const int semaphore = ::semget(static_cast<key_t>(cookie_), 1, 0);
    if (semaphore >= 0) (void)::semctl(semaphore, 0, IPC_RMID);
}

status udev_cookie::create() {
    if (dm_udev_get_sync_support() == 0) return ok();
    if (dm_udev_create_cookie(&cookie_) == 0) return errno_error(errno, "create a udev cookie");
    return ok();
}

status udev_cookie::wait(std::chrono::seconds limit) {
    const std::uint32_t cookie = std::exchange(cookie_, 0);
    if (cookie == 0) return ok();
    const int semaphore = ::semget(static_cast<key_t>(cookie), 1, 0);
    if (semaphore < 0) return errno_error(errno, "find the udev cookie");
    sembuf take{0, -1, IPC_NOWAIT};
    sembuf zero{0, 0, 0};
    const timespec time{limit.count(), 0};
    int outcome = ::semop(semaphore, &take, 1);
    if (outcome == 0) do {
            outcome = ::semtimedop(semaphore, &zero, 1, &time);
        } while (outcome != 0 && errno == EINTR);
    const int problem = outcome == 0 ? 0 : errno;
    (void)::semctl(semaphore, 0, IPC_RMID);
    if (problem == 0) return ok();
    if (problem == EAGAIN)
        return error{errc::timed_out,
                     "udev did not finish with our devices; is systemd-udevd running, and does a rule hang?"};
    return errno_error(problem, "wait for the udev cookie");
}

bool wait_for_idle_udev(std::chrono::seconds limit) {
    const descriptor watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (watch.get() < 0 || ::inotify_add_watch(watch.get(), udev_folder, IN_DELETE) < 0) return false;
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (::access(udev_queue, F_OK) == 0) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd one{watch.get(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&one, 1, static_cast<int>(left.count())) == 0) return false;
        alignas(inotify_event) std::array<char, 4096> events{};
        (void)!::read(watch.get(), events.data(), events.size());
    }
    return true;
}

}  // namespace weft::dm
