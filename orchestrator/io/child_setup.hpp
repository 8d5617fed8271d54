// SPDX-License-Identifier: Apache-2.0
// What a forked child may do before exec, and the parent's side of it. Private to process_*.cpp.
//
// Between fork and exec of a program with threads only async-signal-safe calls are allowed (fork(2)): everything that
// allocates is prepared before the fork. _Fork (glibc 2.34) is the variant that promises to be async-signal-safe
// itself.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

/// argv as execv wants it; keeps pointers into `strings`, so neither may change meanwhile.
class argument_vector {
public:
    explicit argument_vector(const std::vector<std::string>& strings);
    [[nodiscard]] char* const* data() const noexcept { return pointers_.data(); }

private:
    std::vector<char*> pointers_;
};

/// The program's file: itself with a slash, else the first executable in PATH and then in the system's usual places
/// (mkfs lives in /usr/sbin, which not every PATH has). Errors: not_found, invalid_argument (empty argv).
result<std::string> find_program(const std::vector<std::string>& argv);

/// Like open(2) with O_CLOEXEC, but never returns 0, 1 or 2, which the child overwrites.
result<unique_fd> open_high(const std::string& path, int flags, unsigned mode = 0);

/// Takes the lock of an identity file, to start a process that writes it. Errors: busy when the process that it names
/// is alive; corrupt.
result<unique_fd> lock_identity(const std::string& identity_file);

struct pipe_ends {
    unique_fd reader, writer;
};
/// A pipe with O_CLOEXEC and both ends above 2.
result<pipe_ends> make_pipe();

/// Blocks every signal for its life, so that no handler of ours runs in a child.
class signals_blocked {
public:
    signals_blocked() noexcept;
    ~signals_blocked();
    signals_blocked(const signals_blocked&) = delete;
    signals_blocked& operator=(const signals_blocked&) = delete;

private:
    sigset_t before_;
};

/// In the child: default handlers, nothing blocked.
void child_reset_signals() noexcept;

/// In the child: stdin, stdout and stderr; every other file will be closed by exec.
bool child_set_files(int in, int out, int err) noexcept;
inline bool child_set_files(int in, int out) noexcept {
    return child_set_files(in, out, out);
}

}  // namespace weft
