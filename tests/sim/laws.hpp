// SPDX-License-Identifier: Apache-2.0
// What the four laws of design.md promise at every moment of a run, from outside of every engine. Laws 1 and 2 are
// checked through the histories (clients.hpp); this file keeps law 1's account of what may be forgotten, law 3's of who
// has served, and looks at law 4 after every event.
//
// Law 1, exactly. A replica that the record calls up_to_date, and not recovering, *protects*
//   - every acknowledged and flushed write, while its drive is there;
//   - every acknowledged write, if its kernel has not died since the record called it up_to_date (or since the session
//     began in which that was proposed, whichever was earlier);
//   - else those acknowledged writes that began after its kernel's last death (its floor).
// A write that no up_to_date replica protects at some moment is no longer promised: that moment widens the histories.
// So every kernel may die at any time, also while a demotion is on its way. One case widens them a second time: an
// up_to_date replica was removed from the record under a writer that has not heard of it (cut off from the store). That
// one requires its answers still, and may go on reading from it after the last kernel that the record trusts has died:
// nothing wrong is read (it has everything that was acknowledged), but law 1 protects it no longer, so what was read so
// late may be gone for the next epoch. For that epoch the loss takes place when it begins to serve; never later.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "tests/sim/clients.hpp"
#include "tests/sim/replica_server.hpp"
#include "tests/sim/store.hpp"

namespace weft::sim {

using server_list = std::vector<std::unique_ptr<replica_server>>;

/// Replica "r7" is on server 7.
std::size_t server_of(const replica_id& id);

class laws {
public:
    laws(schedule& time, const trace& log, const store& record, server_list& servers, clients& apps);

    /// An epoch's engine asks for a replica to be called up_to_date; `since`: when the session with it began.
    void proposed_up_to_date(const replica_id& id, std::uint64_t since) { session_[server_of(id)] = since; }
    void on_record(const volume_record& after);
    void on_kernel_death(std::size_t server);

    void on_serving(std::uint64_t epoch);
    /// Law 3: has a higher epoch served?
    [[nodiscard]] bool deposed(std::uint64_t epoch) const { return epoch < highest_served_; }
    [[nodiscard]] std::uint64_t highest_served() const { return highest_served_; }

    /// Does law 1 still promise every acknowledged write if this kernel dies now?
    [[nodiscard]] bool others_protect(std::size_t server) const;
    /// schedule::tick of the last moment at which something was no longer promised; 0: never.
    [[nodiscard]] std::uint64_t last_loss() const { return last_loss_; }

    /// Law 4, now.
    void check_clean_regions();

private:
    void account();
    [[nodiscard]] std::uint64_t floor_after_promotion(std::size_t server) const;
    void check_region(std::uint64_t region, std::uint64_t first, std::uint64_t end) const;

    schedule& time_;
    const trace& log_;
    const store& record_;
    server_list& servers_;
    clients& apps_;
    std::map<std::size_t, std::uint64_t> floors_;   // of the replicas that protect; 0: everything
    std::vector<std::size_t> trusted_;              // the up_to_date ones, recovering or not
    std::map<std::size_t, std::uint64_t> session_;  // see proposed_up_to_date
    std::uint64_t promised_from_ = 0;
    std::uint64_t last_loss_ = 0;
    std::uint64_t highest_served_ = 0;
    std::uint64_t removed_under_ = 0;  // the record's epoch when it last lost an up_to_date replica without a demotion
    bool loss_open_ = false;           // the next epoch that serves may not find what the present one can still read
    bool record_touched_ = true;
};

}  // namespace weft::sim
