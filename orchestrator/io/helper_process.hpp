// SPDX-License-Identifier: Apache-2.0
// weftd --helper NAME [WORD...]: one piece of work on a volume's device, in a process of its own.
//
// Whoever reads, writes or reloads a volume's device waits for as long as the volume holds (R4), in the kernel, where
// no signal reaches. A thread of weftd that waited there would keep a killed weftd from dying, and would keep the
// attachment's lock from whoever has to replace a dead volume server, which may be all that it waits for. A process can
// be left behind: it is killed, dies when the kernel lets it, and what it came to do the next call finds out. So weftd
// itself only looks at what the kernel knows without asking the device.
//
// A helper says its answer, or what went wrong, on stdout; the exit code tells which. It dies with weftd.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

struct helper_call {
    std::vector<std::string> words;  // NAME and its arguments; anybody can read them in /proc
    int stdin_fd = -1;               // the caller's; -1: /dev/null
    std::chrono::milliseconds timeout{60000};
    int server = -1;                  // the caller's pidfd of the volume server, whose end ends the wait; -1: none
    std::string left_behind_as = {};  // as run_request's
};

/// Runs it from weftd and returns its answer. Errors: the helper's own; timed_out, unavailable (`server` has ended):
/// it was killed, and may be done with what it does all the same.
result<std::string> run_helper(const helper_call& what);

/// A file in memory, open for reading from its start: for what is too long for a pipe. Errors: io_failed.
result<unique_fd> memory_file(std::string_view text);

/// Gets the words after NAME.
using helper = result<std::string> (*)(const std::vector<std::string>& words);
/// The process itself. Returns its exit code.
int helper_main(const std::map<std::string, helper>& known, const std::vector<std::string>& words);

}  // namespace weft
