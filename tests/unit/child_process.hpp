// SPDX-License-Identifier: Apache-2.0
// A forked child for tests of what several processes do to one file, and of what kill -9 leaves behind.
//
// The child runs a function and ends with its value as exit status, without destructors and without doctest; SQLite
// connections must be opened inside of it. The test's end kills and reaps what still runs.
#pragma once

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <utility>

namespace weft::test {

class child_process {
public:
    explicit child_process(const std::function<int()>& work) : pid_(::fork()) {
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::_exit(work());
        }
    }
    ~child_process() { kill(); }
    child_process(child_process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
    child_process& operator=(child_process&&) = delete;

    /// kill -9, and waits for its end.
    void kill() {
        if (pid_ < 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(std::exchange(pid_, -1), nullptr, 0);
    }
    [[nodiscard]] bool is_running() const {
        siginfo_t ended{};
        return ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
    }
    /// Waits for its end; its exit status, -1 if a signal ended it. `usage`: what it used.
    int join(rusage* usage = nullptr) {
        int how = 0;
        rusage used{};
        REQUIRE(::wait4(std::exchange(pid_, -1), &how, 0, &used) > 0);
        if (usage != nullptr) *usage = used;
        return WIFEXITED(how) ? WEXITSTATUS(how) : -1;
    }

private:
    pid_t pid_;
};

}  // namespace weft::test
