// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/store_watch.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace weft {

namespace {

constexpr std::uint32_t directory_events = IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE |
                                           IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr std::uint32_t directory_itself = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT | IN_Q_OVERFLOW;
constexpr std::uint32_t file_events = IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE;
constexpr std::chrono::seconds blind_look_interval{1};

}  // namespace

store_watch::store_watch(std::string directory, std::string name, unique_fd events, unique_fd interrupts)
    : directory_(std::move(directory)),
      name_(std::move(name)),
      events_(std::move(events)),
      interrupts_(std::move(interrupts)) {}

result<std::unique_ptr<store_watch>> store_watch::create(const std::string& path) {
    const std::filesystem::path file(path);
    unique_fd interrupts(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!interrupts) return errno_error(errno, "eventfd");
    unique_fd events(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    return std::unique_ptr<store_watch>(new store_watch(file.parent_path().string(), file.filename().string(),
                                                        std::move(events), std::move(interrupts)));
}

store_watch::wake store_watch::rearm() {
    if (!events_) return wake::timed_out;
    // For a directory that is watched already this changes nothing and returns the same descriptor; for one that took
    // its place a new one.
    const int watch = ::inotify_add_watch(events_.get(), directory_.c_str(), directory_events);
    if (watched_ >= 0 && watch != watched_) ::inotify_rm_watch(events_.get(), watched_);
    watched_ = watch;
    return take_events();
}

store_watch::wake store_watch::take_events() {
    auto meaning = wake::timed_out;
    alignas(inotify_event) std::array<char, 16384> buffer;
    while (true) {
        const ssize_t got = ::read(events_.get(), buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return meaning;
        for (std::size_t at = 0; at < static_cast<std::size_t>(got);) {
            inotify_event event{};
            std::memcpy(&event, buffer.data() + at, sizeof event);
            const std::string_view name(event.len > 0 ? buffer.data() + at + sizeof event : "");
            at += sizeof event + event.len;
            // Removing the watch of a replaced directory says IN_IGNORED for a descriptor that is not ours any more.
            if (event.wd >= 0 && event.wd != watched_) continue;
            if ((event.mask & directory_itself) != 0 || ((event.mask & file_events) != 0 && name == name_))
                meaning = wake::changed;
            else if (meaning == wake::timed_out && (event.mask & IN_MODIFY) != 0 && name == name_ + "-wal")
                meaning = wake::log_grew;
        }
    }
}

store_watch::wake store_watch::wait(clock::time_point deadline) {
    const bool blind = watched_ < 0;
    const auto end = blind ? std::min(deadline, clock::now() + blind_look_interval) : deadline;
    while (true) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - clock::now()).count();
        std::array<pollfd, 2> fds{{{interrupts_.get(), POLLIN, 0}, {blind ? -1 : events_.get(), POLLIN, 0}}};
        const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(std::clamp<long long>(left, 0, 3600 * 1000)));
        if (ready < 0 && errno != EINTR) return wake::timed_out;
        if (ready > 0 && fds[0].revents != 0) {
            forget_interrupt();
            return wake::interrupted;
        }
        if (ready > 0 && fds[1].revents != 0) {
            const auto meaning = take_events();
            if (meaning != wake::timed_out) return meaning;
        }
        if (clock::now() >= end) return blind && end < deadline ? wake::changed : wake::timed_out;
    }
}

void store_watch::interrupt() noexcept {
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the waiter is being woken anyway.
    while (::write(interrupts_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void store_watch::forget_interrupt() noexcept {
    std::uint64_t count = 0;
    while (::read(interrupts_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
}

void store_watch::ring(const std::string& path) noexcept {
    // SQLite takes no notice of time stamps. If the file is gone, its going was an event already.
    ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
}

}  // namespace weft
