// SPDX-License-Identifier: Apache-2.0
// Proof that the simulator can see: with any one rule of base/canary.hpp broken it must find a broken law within a
// bounded number of seeds. Only a build with -DWEFT_CANARIES can break a rule.
#pragma once

#include <cstdint>

namespace weft::sim {

/// False, with the known names on standard error, if there is no such rule or this is not the canary build.
bool break_rule(const char* name);

/// Runs up to `seeds` seeds for each rule, each rule in a process of its own; says which seed caught it and how. The
/// exit code: 0 if every one was caught.
int run_canaries(std::uint64_t seeds);

}  // namespace weft::sim
