// SPDX-License-Identifier: Apache-2.0
// sim FIRST_SEED [COUNT] [STEPS] [BLOCK]    sim --break RULE FIRST_SEED [COUNT] [STEPS]    sim --canaries COUNT
//
// Runs seeds in silence. One that breaks a law is run again with its trace (BLOCK: every access to it is in there,
// too), and ends the program with 1; one seed alone (COUNT 1) is traced at once. An INVARIANT that does not hold counts
// as a broken law. The last two exist in the canary build only (canaries.hpp).
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/sim/canaries.hpp"
#include "tests/sim/world.hpp"

namespace {

using weft::sim::run_options;
using weft::sim::world;

run_options running;
std::vector<std::string> again;  // the command line that runs the present seed with a trace

/// The engine has aborted or crashed: run the seed again with a trace, which will end in the same place.
void on_death(int) {
    char seed[32];
    std::snprintf(seed, sizeof seed, "%llu", static_cast<unsigned long long>(running.seed));
    char* arguments[8] = {};
    std::size_t count = 0;
    for (std::string& one : again) arguments[count++] = one == "SEED" ? seed : one.data();
    execv("/proc/self/exe", arguments);
    _exit(1);
}

constexpr unsigned seed_seconds_max = 60;  // a seed takes milliseconds

/// An engine that never comes to an end breaks every promise. Already traced: what it did last stands above.
void on_alarm(int) {
    char text[96];
    const int length = std::snprintf(text, sizeof text, "seed %llu failed: does not end\n",
                                     static_cast<unsigned long long>(running.seed));
    (void)!write(STDOUT_FILENO, text, static_cast<std::size_t>(length));
    _exit(1);
}

int fail(run_options options, const std::string& why) {
    if (!options.traced) {
        options.traced = true;
        try {
            world(options).run();
        } catch (const weft::sim::violation&) {
            // as expected
        }
    }
    std::printf("seed %llu failed: %s\nreplay: make sim SEED=%llu STEPS=%u\n",
                static_cast<unsigned long long>(options.seed), why.c_str(),
                static_cast<unsigned long long>(options.seed), options.steps);
    return 1;
}

int run(std::uint64_t first, std::uint64_t count, run_options options) {
    std::uint64_t acknowledged = 0;
    for (options.seed = first; options.seed < first + count; ++options.seed) {
        running = options;
        alarm(seed_seconds_max);
        try {
            world it(options);
            it.run();
            acknowledged += it.acknowledged();
        } catch (const weft::sim::violation& problem) {
            return fail(options, problem.what());
        }
    }
    std::printf("%llu seeds, %llu acknowledged requests, no violation\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(acknowledged));
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    int at = 1;
    if (argc == 3 && std::strcmp(argv[1], "--canaries") == 0)
        return weft::sim::run_canaries(std::strtoull(argv[2], nullptr, 10));
    if (argc > 3 && std::strcmp(argv[1], "--break") == 0) {
        if (!weft::sim::break_rule(argv[2])) return 2;
        at = 3;
    }
    const auto number = [&](std::uint64_t otherwise) {
        return at < argc ? std::strtoull(argv[at++], nullptr, 10) : otherwise;
    };
    const std::uint64_t first = number(1);
    const std::uint64_t count = number(1);
    run_options options;
    options.steps = static_cast<std::uint32_t>(number(options.steps));
    options.watched = number(options.watched);
    options.traced = count == 1;
    again = {"sim"};
    if (argc > 1 && std::strcmp(argv[1], "--break") == 0) again.insert(again.end(), {argv[1], argv[2]});
    again.insert(again.end(), {"SEED", "1", std::to_string(options.steps)});
    // exec keeps the mask that a handler runs under.
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarms, nullptr);
    std::signal(SIGALRM, options.traced ? on_alarm : on_death);
    if (!options.traced)
        for (const int death : {SIGABRT, SIGSEGV, SIGFPE}) std::signal(death, on_death);
    return run(first, count, options);
}
