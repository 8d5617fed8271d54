// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/canaries.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string_view>

#include "nbd-backend/base/canary.hpp"
#include "tests/sim/world.hpp"

namespace weft::sim {

namespace {

using canary::rule;
using canary::rule_names;

#ifdef WEFT_CANARIES

std::uint64_t running = 0;

/// An INVARIANT of the product saw it first: as good.
void on_abort(int) {
    char text[96];
    const int length = std::snprintf(text, sizeof text, "seed %llu: an INVARIANT does not hold\n",
                                     static_cast<unsigned long long>(running));
    (void)!write(STDOUT_FILENO, text, static_cast<std::size_t>(length));
    _exit(0);
}

/// Nor does a volume work whose engine never comes to an end.
void on_alarm(int) {
    char text[96];
    const int length =
        std::snprintf(text, sizeof text, "seed %llu: does not end\n", static_cast<unsigned long long>(running));
    (void)!write(STDOUT_FILENO, text, static_cast<std::size_t>(length));
    _exit(0);
}

constexpr unsigned seed_seconds_max = 10;  // a seed takes milliseconds

/// The child's exit code: 0 if it was caught.
int catch_one(std::uint64_t seeds) {
    std::signal(SIGABRT, on_abort);
    std::signal(SIGALRM, on_alarm);
    run_options options;
    for (options.seed = 1; options.seed <= seeds; ++options.seed) {
        running = options.seed;
        alarm(seed_seconds_max);
        try {
            world(options).run();
        } catch (const violation& found) {
            std::printf("seed %llu: %s\n", static_cast<unsigned long long>(options.seed), found.what());
            return 0;
        }
    }
    std::printf("NOT CAUGHT in %llu seeds\n", static_cast<unsigned long long>(seeds));
    return 1;
}

#endif

}  // namespace

#ifdef WEFT_CANARIES

bool break_rule(const char* name) {
    const auto found = std::find(rule_names.begin(), rule_names.end(), std::string_view(name));
    if (found == rule_names.end()) {
        std::fprintf(stderr, "sim: there is no rule '%s'; known:", name);
        for (const std::string_view one : rule_names) std::fprintf(stderr, " %s", one.data());
        std::fprintf(stderr, "\n");
        return false;
    }
    canary::broken_rule = static_cast<rule>(found - rule_names.begin());
    return true;
}

int run_canaries(std::uint64_t seeds) {
    int missed = 0;
    for (std::size_t i = 0; i < rule_names.size(); ++i) {
        std::printf("canary %-22s ", rule_names[i].data());
        std::fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            canary::broken_rule = static_cast<rule>(i);
            std::freopen("/dev/null", "w", stderr);
            const int code = catch_one(seeds);
            std::fflush(stdout);
            _exit(code);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (!WIFEXITED(status)) std::printf("died of signal %d\n", WTERMSIG(status));
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ++missed;
    }
    std::printf("%zu canaries, %d missed\n", rule_names.size(), missed);
    return missed == 0 ? 0 : 1;
}

#else

bool break_rule(const char* /*name*/) {
    std::fprintf(stderr, "sim: this is not the canary build; make BUILD=build-canary EXTRA_CXXFLAGS=-DWEFT_CANARIES\n");
    return false;
}

int run_canaries(std::uint64_t /*seeds*/) {
    (void)break_rule("");
    return 2;
}

#endif

}  // namespace weft::sim
