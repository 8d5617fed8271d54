// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/luks_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/key_policy.hpp"
#include "orchestrator/io/child_setup.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/helper_process.hpp"

namespace weft {

namespace {

constexpr std::array<std::pair<std::string_view, luks_verb>, 3> verbs = {
    {{"open-new", luks_verb::open_new}, {"open", luks_verb::open}, {"resize", luks_verb::resize}}};

std::string_view word_of(luks_verb verb) {
    for (const auto& [word, known] : verbs)
        if (known == verb) return word;
    return "?";
}

status open(const dm::luks_volume& volume, std::string_view key, bool record_formatted) {
    // Held from the look to the last write, as for mkfs: nobody else formats in between.
    const unique_fd fd{::open(volume.device.c_str(), O_RDWR | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", volume.device));
    TRY(lock_device(fd.get(), volume.device, helper_lock_patience));
    TRY_ASSIGN(const auto found, probe_open_device(fd.get(), volume.device));
    const auto plan = plan_format(record_formatted, {"crypto_LUKS", volume.uuid, "LUKS header"}, found);
    if (plan.action == format_action::refuse) return error{errc::corrupt, plan.reason};
    if (plan.action == format_action::format) {
        TRY(dm::luks_format(volume, key));
        WEFT_CRASH_POINT("kernel.crypt-formatted");
    }
    TRY(dm::luks_open(volume, key));
    WEFT_CRASH_POINT("kernel.crypt-opened");
    return ok();
}

status call(luks_verb verb, const dm::luks_volume& volume, std::string_view key) {
    switch (verb) {
        case luks_verb::open_new: return open(volume, key, false);
        case luks_verb::open: return open(volume, key, true);
        case luks_verb::resize: return dm::luks_resize(volume, key);
    }
    return error{errc::unsupported, "no such verb"};
}

/// Nobody but root looks into this process, and no core dump has its memory.
void hide_memory() {
    (void)::prctl(PR_SET_DUMPABLE, 0);
    const rlimit none{0, 0};
    (void)::setrlimit(RLIMIT_CORE, &none);
}

status read_key_and_call(luks_verb verb, const dm::luks_volume& volume) {
    TRY_ASSIGN(auto key, secret_bytes::make());
    TRY(key.read_all(STDIN_FILENO));
    TRY(check_key_size("stdin", key.view().size()));
    return call(verb, volume, key.view());
}

}  // namespace

status run_luks(luks_verb verb, const dm::luks_volume& volume, const secret_bytes& key,
                std::chrono::milliseconds timeout, int server) {
    TRY_ASSIGN(auto pipe, make_pipe());
    // A pipe takes 64 KiB without a reader (pipe(7)), a key is at most a page.
    if (::write(pipe.writer.get(), key.view().data(), key.view().size()) != static_cast<ssize_t>(key.view().size()))
        return errno_error(errno, "hand over a key");
    pipe.writer.reset();
    const helper_call call{{"luks", std::string(word_of(verb)), volume.device, volume.uuid, volume.name},
                           pipe.reader.get(),
                           timeout,
                           server};
    TRY(run_helper(call));
    return ok();
}

result<std::string> luks_helper(const std::vector<std::string>& words) {
    hide_memory();
    constexpr std::size_t words_wanted = 4;
    if (words.size() == words_wanted)
        for (const auto& [word, verb] : verbs) {
            if (word != words[0]) continue;
            TRY(read_key_and_call(verb, {words[1], words[2], words[3]}));
            return std::string();
        }
    return error{errc::invalid_argument, "VERB DEVICE UUID NAME, a verb of open-new, open, resize"};
}

}  // namespace weft
