// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/laws.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "nbd-backend/base/units.hpp"

namespace weft::sim {

std::size_t server_of(const replica_id& id) {
    return std::stoul(id.str().substr(1));
}

laws::laws(schedule& time, const trace& log, const store& record, server_list& servers, clients& apps)
    : time_(time), log_(log), record_(record), servers_(servers), apps_(apps) {
    for (const replica_record& one : record_.replicas())
        if (one.state == replica_state::up_to_date) {
            floors_[server_of(one.id)] = 0;
            trusted_.push_back(server_of(one.id));
        }
}

std::uint64_t laws::floor_after_promotion(std::size_t server) const {
    const auto since = session_.find(server);
    const std::uint64_t died = servers_[server]->kernel_died();
    return since != session_.end() && died < since->second ? 0 : died;
}

void laws::on_serving(std::uint64_t epoch) {
    if (epoch <= highest_served_) return;
    highest_served_ = epoch;
    if (std::exchange(loss_open_, false)) apps_.lose(promised_from_);
}

void laws::on_record(const volume_record& after) {
    record_touched_ = true;
    const auto& listed = after.extents.front().replicas;
    for (const std::size_t server : trusted_)
        if (std::none_of(listed.begin(), listed.end(), [&](const auto& one) { return server_of(one.id) == server; }))
            removed_under_ = after.epoch;
    std::map<std::size_t, std::uint64_t> now;
    trusted_.clear();
    for (const replica_record& one : after.extents.front().replicas) {
        if (one.state != replica_state::up_to_date) continue;
        const std::size_t server = server_of(one.id);
        trusted_.push_back(server);
        if (one.recovering) continue;
        const auto known = floors_.find(server);
        now[server] = known != floors_.end() ? known->second : floor_after_promotion(server);
    }
    floors_ = std::move(now);
    account();
}

void laws::on_kernel_death(std::size_t server) {
    const auto known = floors_.find(server);
    if (known == floors_.end()) return;
    known->second = time_.tick();
    account();
}

bool laws::others_protect(std::size_t server) const {
    return std::any_of(floors_.begin(), floors_.end(),
                       [&](const auto& one) { return one.first != server && one.second == 0; });
}

void laws::account() {
    if (floors_.empty()) log_.blame("the record has no up_to_date replica that is not recovering");
    const auto least = std::min_element(floors_.begin(), floors_.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
    if (least->second <= promised_from_) return;
    promised_from_ = least->second;
    last_loss_ = time_.tick();
    log_.say("law 1 no longer promises what was written, not flushed, before this moment or a little earlier");
    apps_.lose(promised_from_);
    loss_open_ = loss_open_ || (removed_under_ != 0 && removed_under_ >= highest_served_);
}

void laws::check_clean_regions() {
    bool touched = std::exchange(record_touched_, false);
    for (const auto& one : servers_) touched = std::exchange(one->touched, false) || touched;
    if (!touched) return;
    const auto& bits = servers_.front()->data.bits();
    const std::uint64_t span = bits.region_bytes() / block_bytes;
    for (std::uint64_t region = 0; region < bits.regions(); ++region)
        check_region(region, region * span, std::min<std::uint64_t>((region + 1) * span, blocks));
}

/// Clean on all: equal on all, in their kernels and, because a clear comes after a flush, on their drives.
void laws::check_region(std::uint64_t region, std::uint64_t first, std::uint64_t end) const {
    for (const std::size_t server : trusted_)
        if (servers_[server]->data.bits().is_dirty(region)) return;
    const disk& reference = servers_[trusted_.front()]->data;
    for (const std::size_t server : trusted_) {
        const disk& it = servers_[server]->data;
        for (std::uint64_t b = first; b < end; ++b) {
            if (it.rotten(b) || reference.rotten(b) || it.gone || reference.gone) continue;
            if (it.cached(b).v != reference.cached(b).v)
                log_.blame("law 4: region {} is clean everywhere, but block {} is {} on {} and {} on {}", region, b,
                           reference.cached(b).v, servers_[trusted_.front()]->name(), it.cached(b).v,
                           servers_[server]->name());
            if (it.stable(b).v != it.cached(b).v)
                log_.blame("law 4: region {} is clean everywhere, but block {} of {} is not flushed: {} is, {} is not",
                           region, b, servers_[server]->name(), it.stable(b).v, it.cached(b).v);
        }
    }
}

}  // namespace weft::sim
