// SPDX-License-Identifier: Apache-2.0
// The launcher of unit_start.hpp: everything between systemd's fork and the server's main. What the unit can say (OOM
// score, limits, control group) it says; the rest is here.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/io/child_setup.hpp"
#include "orchestrator/io/unit_start.hpp"

namespace weft {

namespace {

status set_stack(std::uint64_t bytes) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) != 0) return errno_error(errno, "read the limit of the stack");
    limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || bytes < limit.rlim_max ? bytes : limit.rlim_max;
    if (::setrlimit(RLIMIT_STACK, &limit) != 0) return errno_error(errno, "limit the stack");
    return ok();
}

status become(const spawn_request& what) {
    TRY_ASSIGN(const auto null_fd, open_high("/dev/null", O_RDONLY));
    TRY_ASSIGN(const auto log_fd, open_high(what.log_file.string(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600));
    TRY_ASSIGN(const auto self, identify(::getpid()));
    ::umask(077);
    if (::chdir("/") != 0) return errno_error(errno, "go to /");
    child_reset_signals();
    if (what.data_path) ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);  // best effort, as in process_spawn.cpp
    if (what.stack_bytes != 0) TRY(set_stack(what.stack_bytes));
    TRY(write_file_atomically(what.identity_file, encode_identity(self)));
    const int told = ::sd_notify(/* unset_environment= */ 1, "READY=1");
    if (told < 0) return errno_error(-told, "tell systemd that the identity is on record");
    if (!child_set_files(null_fd.get(), log_fd.get())) return errno_error(errno, "set up files");
    const argument_vector argv{what.argv};
    ::execv(what.argv.front().c_str(), argv.data());
    return errno_error(errno, fmt::format("execute {}", what.argv.front()));
}

}  // namespace

error launch(const std::filesystem::path& stem) {
    const auto start = std::filesystem::path(stem.string() + ".start");
    const auto text = read_file(start);
    if (text.has_error()) return text.error();
    if (!*text)
        return error{errc::not_found,
                     fmt::format("{} is not there: servers are started by weftd, not by hand", start.string())};
    auto what = decode_start(**text);
    if (what.has_error()) return what.error().within(start.string());
    what->identity_file = stem.string() + ".identity";
    const auto failed = become(*what);
    (void)remove_file(what->identity_file);  // it names us, and we are about to end: a reader sees that, too
    return failed.error();
}

}  // namespace weft
