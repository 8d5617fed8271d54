// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/luks_process.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "orchestrator/core/key_policy.hpp"
#include "orchestrator/io/child_setup.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

constexpr std::array<std::pair<std::string_view, luks_verb>, 3> verbs = {
    {{"format", luks_verb::format}, {"open", luks_verb::open}, {"resize", luks_verb::resize}}};

/// Exit codes; the others mean io_failed.
constexpr std::array<std::pair<int, errc>, 5> codes = {{{10, errc::unavailable},
                                                        {11, errc::corrupt},
                                                        {12, errc::busy},
                                                        {13, errc::already_exists},
                                                        {14, errc::not_found}}};
constexpr int other_failure = 1;
constexpr int bad_usage = 2;

std::string_view word_of(luks_verb verb) {
    for (const auto& [word, known] : verbs)
        if (known == verb) return word;
    return "?";
}

status call(luks_verb verb, const dm::luks_volume& volume, std::string_view key) {
    switch (verb) {
        case luks_verb::format: return dm::luks_format(volume, key);
        case luks_verb::open: return dm::luks_open(volume, key);
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
                std::chrono::milliseconds timeout) {
    TRY_ASSIGN(auto pipe, make_pipe());
    // A pipe takes 64 KiB without a reader (pipe(7)), a key is at most a page.
    if (::write(pipe.writer.get(), key.view().data(), key.view().size()) != static_cast<ssize_t>(key.view().size()))
        return errno_error(errno, "hand over a key");
    pipe.writer.reset();
    run_request request;
    request.argv = {"/proc/self/exe", "--luks", std::string(word_of(verb)), volume.device, volume.uuid, volume.name};
    request.timeout = timeout;
    request.stdin_fd = pipe.reader.get();
    auto outcome = run(request);
    if (outcome.has_error())
        return error{outcome.error().code,
                     fmt::format("LUKS {} of {}: {}", word_of(verb), volume.device,
                                 outcome.error().code == errc::timed_out ? "no end in time; do its replicas answer?"
                                                                         : outcome.error().text)};
    if (outcome->exit_code == 0) return ok();
    for (const auto& [exit_code, code] : codes)
        if (exit_code == outcome->exit_code) return error{code, std::move(outcome->output)};
    return error{errc::io_failed, std::move(outcome->output)};
}

int luks_main(const std::vector<std::string>& words) {
    hide_memory();
    constexpr std::size_t words_wanted = 4;
    if (words.size() != words_wanted) return bad_usage;
    for (const auto& [word, verb] : verbs) {
        if (word != words[0]) continue;
        const auto done = read_key_and_call(verb, {words[1], words[2], words[3]});
        if (done.has_value()) return 0;
        (void)std::fputs(done.error().text.c_str(), stdout);
        for (const auto& [exit_code, code] : codes)
            if (code == done.error().code) return exit_code;
        return other_failure;
    }
    return bad_usage;
}

}  // namespace weft
