// SPDX-License-Identifier: Apache-2.0
// A replica server: one process over one disk, with the product's own fence, gate and bitmap.
//
// Invariants that the model keeps, because the product promises them to the engine:
//   - a request is admitted only under the ticket of the newest key, and a newer key is let in only when those that
//   were
//     admitted before are through (core/fence.hpp);
//   - before a change is applied, the boot id of its kernel and the bits of its regions are durable;
//   - a clear never meets a change in flight in its region.
// Everything takes time in steps; a process that hangs stops between two of them and goes on later, with what it had
// admitted; a process that dies is gone between two of them, a change half applied.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "nbd-backend/core/fence.hpp"
#include "tests/sim/disk.hpp"
#include "tests/sim/trace.hpp"

namespace weft::sim {

/// What an opener is told.
struct opened {
    bool fenced = false;  // a higher key is known
    core::fence_key highest;
    core::admission_gate::ticket ticket = 0;
    core::link_hello hello;
};

/// One request inside a server. `payload` is the wire: what is written, or what was read.
struct call {
    core::io_op op;
    core::admission_gate::ticket ticket = 0;
    core::fence_key key;  // for the trace
    std::vector<std::byte> payload;
    core::op_result result;
    std::function<void(core::op_result, std::vector<std::byte>)> answer;
    std::uint64_t applied = 0;  // blocks
    bool all_dirty = false;     // its regions are entered, and their bits durable
};

class replica_server {
public:
    replica_server(schedule& time, const trace& log, std::string name, std::uint64_t region_bytes, bool all_dirty);

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] bool alive() const { return alive_; }
    [[nodiscard]] bool hung() const { return hung_; }
    /// Numbers the processes: a connection never reaches a later one.
    [[nodiscard]] std::uint64_t incarnation() const { return incarnation_; }
    /// schedule::tick of the last death of its kernel; 0: never.
    [[nodiscard]] std::uint64_t kernel_died() const { return kernel_died_; }

    /// `told` may never be called (the process dies).
    void open(core::fence_key key, std::function<void(const opened&)> told);
    void receive(const std::shared_ptr<call>& what);

    void process_dies();
    void kernel_dies();
    void hang();
    void go_on();
    void start();

    disk data;
    /// Set by every change of data or bits: what the laws look at may have changed.
    bool touched = true;

private:
    void next_step(std::uint64_t usual_us, std::function<void()> what);
    void try_open(core::fence_key key, const std::function<void(const opened&)>& told);
    void wake_openers();
    void finish(call& what, int error);
    void begin_change(const std::shared_ptr<call>& what);
    void make_dirty(const std::shared_ptr<call>& what);
    void sync_bits();
    void apply(const std::shared_ptr<call>& what);
    void apply_block(call& what, std::uint64_t i);
    void end_change(call& what, int error);
    void begin_flush(const std::shared_ptr<call>& what);
    void read(call& what);
    void tell_stretches(call& what);
    void tell_dirty(call& what);
    void clear(call& what);
    [[nodiscard]] bool needs_space(const core::io_op& op) const;
    [[nodiscard]] std::string boot_id() const { return fmt::format("b{}", boot_); }

    schedule& time_;
    const trace& log_;
    std::string name_;
    bool alive_ = true;
    bool hung_ = false;
    std::uint64_t incarnation_ = 1;
    std::uint64_t boot_ = 1;
    std::uint64_t kernel_died_ = 0;

    // The process.
    std::unique_ptr<core::fence> fence_;
    std::vector<std::function<void()>> openers_;  // that wait
    std::vector<std::shared_ptr<call>> wait_for_bits_;
    bool syncing_bits_ = false;
    std::vector<std::function<void()>> frozen_;  // steps that came while it hung
};

}  // namespace weft::sim
