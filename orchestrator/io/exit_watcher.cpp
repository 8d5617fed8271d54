// SPDX-License-Identifier: Apache-2.0
// exit_watcher: one thread in epoll over pidfds; a token is an epoll datum, so that a reused fd number means nothing.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

class exit_watcher::impl {
public:
    impl() : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        INVARIANT(epoll_ && wake_, "exit_watcher: no epoll or eventfd: errno {}", errno);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = wake_token;
        INVARIANT(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) == 0, "epoll_ctl: errno {}", errno);
        thread_ = std::thread{[this] { loop(); }};
    }

    ~impl() {
        {
            const std::lock_guard lock{mutex_};
            stopping_ = true;
        }
        wake();
        thread_.join();
    }

    std::uint64_t watch(const process_identity& identity, callback on_exit) {
        auto fd = open_pidfd(identity);
        const std::lock_guard lock{mutex_};
        const std::uint64_t token = next_token_++;
        entry added{unique_fd{}, std::move(on_exit), false};
        if (fd.has_value()) {
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.u64 = token;
            added.fd = std::move(*fd);
            INVARIANT(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, added.fd.get(), &event) == 0, "epoll_ctl: errno {}",
                      errno);
        } else {
            // Gone, or out of file descriptors: then "it may be gone, look" is the safe thing to say.
            added.due = true;
            wake();
        }
        entries_.emplace(token, std::move(added));
        return token;
    }

    void forget(std::uint64_t token) {
        std::unique_lock lock{mutex_};
        entries_.erase(token);  // closing the pidfd takes it out of epoll
        if (std::this_thread::get_id() != thread_.get_id()) done_.wait(lock, [&] { return running_ != token; });
    }

private:
    static constexpr std::uint64_t wake_token = 0;
    struct entry {
        unique_fd fd;
        callback on_exit;
        bool due;  // without an event from epoll
    };

    void wake() const {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);  // full means: it will wake anyway
    }

    void fire(std::unique_lock<std::mutex>& lock, std::uint64_t token) {
        const auto found = entries_.find(token);
        if (found == entries_.end()) return;
        const callback on_exit = std::move(found->second.on_exit);
        entries_.erase(found);
        running_ = token;
        lock.unlock();
        on_exit();
        lock.lock();
        running_ = wake_token;
        done_.notify_all();
    }

    void fire_due(std::unique_lock<std::mutex>& lock) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
        std::vector<std::uint64_t> due;
        for (const auto& [token, what] : entries_)
            if (what.due) due.push_back(token);
        for (const auto token : due)
            if (!stopping_) fire(lock, token);
    }

    void loop() {
        std::array<epoll_event, 32> events;
        std::unique_lock lock{mutex_};
        while (!stopping_) {
            lock.unlock();
            const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
            lock.lock();
            for (int i = 0; i < n && !stopping_; ++i) {
                const auto token = events[static_cast<std::size_t>(i)].data.u64;
                if (token == wake_token)
                    fire_due(lock);
                else
                    fire(lock, token);
            }
        }
    }

    unique_fd epoll_, wake_;
    std::mutex mutex_;
    std::condition_variable done_;
    std::map<std::uint64_t, entry> entries_;  // guarded by mutex_
    std::uint64_t next_token_ = 1;            // guarded by mutex_; 0 is wake_token
    std::uint64_t running_ = wake_token;      // guarded by mutex_: whose callback runs now
    bool stopping_ = false;                   // guarded by mutex_
    std::thread thread_;
};

exit_watcher::exit_watcher() : impl_(std::make_unique<impl>()) {}
exit_watcher::~exit_watcher() = default;
std::uint64_t exit_watcher::watch(const process_identity& identity, callback on_exit) {
    return impl_->watch(identity, std::move(on_exit));
}
void exit_watcher::forget(std::uint64_t token) {
    impl_->forget(token);
}

}  // namespace weft
