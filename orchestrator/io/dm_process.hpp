// SPDX-License-Identifier: Apache-2.0
// Changes of device-mapper's devices, made by a helper (helper_process.hpp): `weftd --helper dm`, the steps on stdin
// (dm-tables/core/step_text.hpp).
#pragma once

#include <string>
#include <vector>

#include "dm-tables/core/plan.hpp"
#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft {

/// As dm::driver::apply. `server` as in helper_call. Errors: those of apply; timed_out; unavailable. Killed in between,
/// it leaves what a killed weftd leaves, and may be in its last step still: see await_steps.
status apply_steps(const volume_id& volume, const std::vector<dm::step>& steps, int server);

/// Before the next plan looks at the volume's devices: waits for steps that were left behind. Errors: timed_out,
/// unavailable, io_failed.
status await_steps(const volume_id& volume, int server);

/// The helper "dm".
result<std::string> dm_helper(const std::vector<std::string>& words);

}  // namespace weft
