// SPDX-License-Identifier: Apache-2.0
// Processes that outlive weftd, and short commands that must not.
//
// A detached process is known by its identity {pid, start time, boot id} in a file that *it* writes before it execs, so
// that there is no instant at which it runs without a file. From before the fork until the exec an flock on
// "<identity file>.lock" is held by parent and child together; whoever reads the identity takes that lock shared, so a
// weftd that restarts in the middle of a spawn waits (milliseconds) until the outcome is known, and nothing is started
// twice.
//
//   spawner   lock ── read identity: alive? → busy ── fork ─── … killed here or not …
//   child                                               └ setsid, fork ─ write identity ─ exec (closes the lock)
//
// Liveness never depends on being the parent: a pid counts only while field 22 of /proc/PID/stat and the kernel's boot
// id are those recorded, and a zombie is dead. Nothing goes through a shell. Any thread.
// Facts: proc(5), pidfd_open(2) (Linux 5.3), close_range(2) (5.9), PR_SET_IO_FLUSHER and PR_SET_PDEATHSIG in prctl(2).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

struct process_identity {
    pid_t pid = 0;
    std::uint64_t start_ticks = 0;  // clock ticks since boot
    std::string boot_id;            // UUID of this kernel's life

    friend bool operator==(const process_identity&, const process_identity&) = default;
};

/// One line "<pid> <start ticks> <boot id>\n".
std::string encode_identity(const process_identity& identity);
/// Errors: corrupt.
result<process_identity> decode_identity(std::string_view text);

/// /proc/sys/kernel/random/boot_id. Errors: io_failed.
result<std::string> read_boot_id();

struct proc_stat {
    char state = '?';               // 'R', 'S', 'D', 'T' stopped, 'Z' zombie, ...
    std::uint64_t start_ticks = 0;  // field 22
};
/// Parses /proc/PID/stat; the command name in it may hold spaces and parentheses. Errors: corrupt.
result<proc_stat> parse_proc_stat(std::string_view text);

/// The identity of a running process. Errors: not_found.
result<process_identity> identify(pid_t pid);

/// Is exactly this process there and not a zombie?
bool is_alive(const process_identity& identity);

/// What the identity file says if that process is alive; nullopt if there is no file, the process is gone, or the file
/// is of an earlier boot. Blocks while a spawn with this file is between fork and exec. Errors: corrupt, io_failed.
result<std::optional<process_identity>> read_live_identity(const std::filesystem::path& identity_file);

struct spawn_request {
    std::vector<std::string> argv;        // argv[0] is looked up in PATH when it has no slash
    std::filesystem::path identity_file;  // its directory must exist
    std::filesystem::path log_file;       // stdout and stderr are appended (created 0600)
    bool data_path = false;  // below the page cache of this node: PR_SET_IO_FLUSHER and never the OOM killer's choice
    std::uint64_t stack_bytes = 0;  // RLIMIT_STACK, hence the default size of its threads' stacks; 0: inherited
    std::string unit;  // of systemd, which starts it when servers are units (unit_start.hpp); empty: always forked
};

/// Starts a process in its own session, stdin /dev/null, umask 077, default signals, no other open files, not a child
/// of the caller (no zombie here). Returns after exec succeeded. Errors: busy when the identity file names a live
/// process; not_found when there is no such program; io_failed.
result<process_identity> spawn_detached(const spawn_request& what);

/// A pidfd of exactly this process (readable when it exits). Errors: not_found when it is gone.
result<unique_fd> open_pidfd(const process_identity& identity);

/// Has the process of this pidfd exited? False for -1.
bool has_ended(int pidfd);

/// Waits for the exit. True: it is gone. False: still there after `timeout`.
bool wait_for_exit(const process_identity& identity, std::chrono::milliseconds timeout);

/// SIGCONT, SIGTERM, up to `grace`, SIGKILL, wait again. Success also when it was gone already. Errors: timed_out when
/// it does not even die of SIGKILL within 10 s (uninterruptible I/O). Blocks up to grace + 10 s.
status terminate(const process_identity& identity, std::chrono::milliseconds grace);

/// SIGKILL at once, for a process whose own way of ending would do harm. Errors as terminate. Blocks up to 10 s.
status kill_now(const process_identity& identity);

/// Calls back when processes exit; one thread for all of them, sleeping in epoll.
class exit_watcher {
public:
    using callback = std::function<void()>;

    exit_watcher();
    ~exit_watcher();  // no callback runs after it returned; do not destroy from a callback
    exit_watcher(const exit_watcher&) = delete;
    exit_watcher& operator=(const exit_watcher&) = delete;

    /// `on_exit` runs once, on the watcher's thread, after the exit; at once when it is gone already. The token is for
    /// forget().
    std::uint64_t watch(const process_identity& identity, callback on_exit);
    /// After return the callback is not running and will not run (except when called from a callback itself).
    void forget(std::uint64_t token);

private:
    class impl;
    std::unique_ptr<impl> impl_;
};

struct run_request {
    std::vector<std::string> argv;
    std::chrono::milliseconds timeout{60000};
    std::size_t output_max = 64 * 1024;  // bytes kept: the newest
    int stdin_fd = -1;                   // the caller's; -1: /dev/null
    /// Takes what is to be read from stdout, in place of `output`, which has stderr only then. True: there may be more.
    std::function<bool(int fd)> take_stdout = nullptr;
    int give_up_fd = -1;              // the caller's: readable (a pidfd: that process has ended), it is killed
    bool whole_session = false;       // it gets a session of its own; what it started is killed with it after `timeout`
    std::string left_behind_as = {};  // for await_left_behind, if it does not die at once
};
struct run_outcome {
    int exit_code = 0;
    std::string output;  // stdout and stderr together, or stderr
};

/// Runs a command to its end. It dies with the calling thread (PR_SET_PDEATHSIG), so a command cannot outlive a killed
/// weftd. Errors: not_found (no such program), timed_out (it was killed), unavailable (killed for give_up_fd),
/// io_failed (died of a signal; text names it).
/// A non-zero exit code is not an error here.
result<run_outcome> run(const run_request& what);

/// A system call that may hang in the kernel for as long as a volume holds (R4): umount, mount, the last close of a
/// block device. Made in a forked child, since a thread in uninterruptible sleep would keep a killed weftd from dying.
struct isolated_call {
    int (*call)(int fd, const void* argument) = nullptr;  // async-signal-safe calls only; returns 0 or an errno
    const void* argument = nullptr;
    unique_fd fd;  // the only file that stays open in the child, there as `fd`; closed in the caller. May be empty (-1)
    int give_up_fd = -1;  // the caller's: readable, the child is left behind (as run_request's)
};
/// Errors: timed_out, or unavailable for give_up_fd (the child is left behind and the kernel finishes the call in its
/// own time), else the errno's.
status run_isolated(isolated_call what, std::string_view description, std::chrono::milliseconds timeout);

/// Waits for an isolated call of that description that was left behind, or a command (run_request::left_behind_as):
/// what it does may not be done twice, or not be done after what comes next. Errors: timed_out, unavailable as above;
/// io_failed when it cannot be known.
status await_left_behind(std::string_view description, std::chrono::milliseconds timeout, int give_up_fd);

/// As run, but a non-zero exit code is io_failed with the command's name and the end of its output.
status run_checked(const run_request& what);

}  // namespace weft
