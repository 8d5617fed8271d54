// SPDX-License-Identifier: Apache-2.0
// One run: a cluster around one extent under a seed. Random steps of applications and faults, the laws looked at after
// every event; then everything is repaired, and the last writer must serve, bring every replica up to date, leave them
// equal, and the blocks must hold what the histories allow. A violation throws (trace.hpp).
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "tests/sim/cluster.hpp"
#include "tests/sim/faults.hpp"
#include "tests/sim/writer.hpp"

namespace weft::sim {

struct run_options {
    std::uint64_t seed = 1;
    std::uint32_t steps = 300;
    bool traced = false;
    std::uint64_t watched = trace::no_block;
};

class world {
public:
    explicit world(const run_options& options);
    void run();

    [[nodiscard]] std::uint64_t acknowledged() const { return in_.apps.acknowledged(); }

    // For the faults.
    void attach();
    void process_dies(std::size_t server);
    void kernel_dies(std::size_t server);
    void add_replica();
    void remove_replica(std::size_t server);
    void wake_writer();
    core::engine_policy draw_policy();
    /// The one that attached last; nullptr before the first.
    [[nodiscard]] writer* last_writer() { return writers_.empty() ? nullptr : writers_.back().get(); }

private:
    void applications();
    void tell_writers(const volume_record& before, const volume_record& after);
    void begin(std::uint32_t node, std::uint64_t gaps, const volume_record& record, bool clean);
    void heal_and_check();
    bool detach_equal();
    bool scrub(writer& last);
    bool scrub_once(writer& last);
    [[nodiscard]] bool well(const writer& last) const;
    void remove_gone(std::size_t server);
    void wait_until(const char* what, milliseconds limit, const std::function<bool()>& done);
    void explain_slots();
    void operator_helps();
    void check_blocks();

    run_options options_;
    cluster in_;
    bool removed_any_ = false;     // a removed replica's bits stay in the engine's account until the next attach
    std::uint64_t scrubs_ = 0;     // serial of the one that is wanted
    std::set<replica_id> listed_;  // every id that the record ever had since the beginning
    bool attaching_ = false;
    bool leases_drawn_;  // else every takeover is an operator's, by force, and no engine is told of a lease
    std::vector<std::unique_ptr<writer>> writers_;
    std::unique_ptr<faults> faults_;
};

}  // namespace weft::sim
