// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/dm_process.hpp"

#include <unistd.h>

#include "dm-tables/core/step_text.hpp"
#include "dm-tables/io/dm_driver.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/io/helper_process.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

constexpr std::chrono::seconds dm_wait{300};  // longer than the driver's patience with udev, which it may need twice

constexpr std::size_t steps_max_bytes = 64 * mib;

std::string steps_of(const volume_id& volume) {
    return "device-mapper steps of volume " + volume.str();
}

}  // namespace

status apply_steps(const volume_id& volume, const std::vector<dm::step>& steps, int server) {
    TRY_ASSIGN(const auto rendered, dm::render(steps));
    TRY_ASSIGN(const auto input, memory_file(dm::encode(rendered)));
    TRY(run_helper({{"dm"}, input.get(), dm_wait, server, steps_of(volume)}));
    return ok();
}

status await_steps(const volume_id& volume, int server) {
    return await_left_behind(steps_of(volume), dm_wait, server);
}

result<std::string> dm_helper(const std::vector<std::string>& /*words*/) {
    TRY_ASSIGN(const auto text, read_to_end(STDIN_FILENO, "the steps", steps_max_bytes));
    TRY_ASSIGN(const auto steps, dm::decode_steps(text));
    TRY(dm::driver::apply(steps));
    return std::string();
}

}  // namespace weft
