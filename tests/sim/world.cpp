// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.hpp"

#include <algorithm>

#include "nbd-backend/base/units.hpp"

namespace weft::sim {

using namespace core;

namespace {

constexpr std::size_t members_max = 4;

replica_record born_replica(std::size_t i, bool equal) {
    replica_record one;
    one.id = replica_id(fmt::format("r{}", i));
    one.node = node_of(static_cast<std::uint32_t>(i % nodes));
    one.drive = drive_id(fmt::format("d{}", i));
    one.state = equal ? replica_state::up_to_date : replica_state::inconsistent;
    one.created = true;
    one.born_equal = equal;
    return one;
}

volume_record born_volume(std::uint64_t seed) {
    volume_record record;
    record.name = "volume";
    record.id = volume_id("v");
    record.size_bytes = blocks * block_bytes;
    const std::size_t replicas = 1 + seed % 3;
    record.replicas_wanted = static_cast<std::uint32_t>(replicas);
    record.min_replicas = seed % 5 == 0 && replicas > 1 ? 2 : 1;
    record.extents.resize(1);
    record.extents[0].size_bytes = record.size_bytes;
    for (std::size_t i = 0; i < replicas; ++i) record.extents[0].replicas.push_back(born_replica(i, true));
    record.layout = core::concatenation(1);
    return record;
}

}  // namespace

world::world(const run_options& options)
    : options_(options),
      in_(options.seed, options.traced, options.watched, born_volume(options.seed),
          (std::uint64_t{1} << (options.seed / 3 % 4)) * block_bytes) {
    in_.log.say("seed {}: {} replicas, min-replicas {}, regions of {} blocks", options.seed,
                in_.record.replicas().size(), in_.record.record().min_replicas, in_.region_bytes / block_bytes);
    in_.record.watch([this](const auto& before, const auto& after) { tell_writers(before, after); });
    leases_drawn_ = in_.time.one_in(2);
    if (leases_drawn_)
        in_.leased.start([this](std::uint32_t node) {
            for (const auto& one : writers_)
                if (one->node() == node) one->hear_of_lease();
        });
    faults_ = std::make_unique<faults>(in_, *this);
}

engine_policy world::draw_policy() {
    engine_policy policy;
    policy.resync_rate = in_.time.one_in(3) ? 1 * mib : 0;
    policy.scrub = in_.time.one_in(3) ? ++scrubs_ : scrubs_;
    policy.on_full = in_.time.one_in(2) ? full_policy::hold : full_policy::fail;
    return policy;
}

/// weftd of some node attaches the volume: there is no writer, or its lease is over, or an operator forces it.
void world::attach() {
    if (attaching_) return;
    const auto node = static_cast<std::uint32_t>(in_.time.random(nodes));
    if (leases_drawn_ && !in_.leased.held(node)) return;
    attaching_ = true;
    auto clean = std::make_shared<bool>(false);
    const std::uint64_t gaps = in_.leased.gaps(node);
    // A volume server that runs on this node already is ended first.
    for (const auto& one : writers_)
        if (leases_drawn_ && one->node() == node && !one->over()) one->die();
    in_.log.say("node n{} attaches", node);
    in_.record.commit(
        node,
        [this, node, clean](volume_record now) {
            *clean = now.clean;
            bool alive = false;
            for (std::uint32_t other = 0; other < nodes; ++other)
                alive = alive || (node_of(other) == now.writer && !in_.leased.expired(other));
            return weft::attach(std::move(now), node_of(node),
                                alive ? writer_liveness::alive : writer_liveness::expired, !leases_drawn_);
        },
        [this, node, gaps, clean](const result<volume_record>& made) {
            attaching_ = false;
            if (made.has_value())
                begin(node, gaps, *made, *clean);
            else if (made.error().code != errc::busy)
                in_.log.blame("attach: {}", made.error().text);
        });
}

void world::begin(std::uint32_t node, std::uint64_t gaps, const volume_record& record, bool clean) {
    engine_config config;
    config.size_bytes = record.size_bytes;
    config.min_replicas = record.min_replicas;
    config.clean = clean;
    config.members = members_of(record, node);
    config.chunk_bytes = 8 * block_bytes;
    config.piece_bytes = 2 * block_bytes;
    config.copies_max = 2;
    config.request_timeout = milliseconds(50);
    config.reconnect_window = milliseconds(20);
    config.attach_timeout = milliseconds(50);
    config.retry_min = milliseconds(1);
    config.retry_max = milliseconds(20);
    config.clear_idle = milliseconds(1 + in_.time.random(20));
    config.space_retry = milliseconds(5);
    config.busy_window = milliseconds(2);
    config.busy_rate = 4 * mib;
    config.policy = draw_policy();
    in_.log.say("epoch {} on node n{}{}", record.epoch, node, clean ? ", after a clean detach" : "");
    writers_.push_back(std::make_unique<writer>(in_, node, record.epoch, gaps, std::move(config)));
    writers_.back()->start();
    writers_.back()->hear_of_record();  // it may have changed since
}

/// weftd on each node sees the record change, some time later.
void world::tell_writers(const volume_record& before, const volume_record& after) {
    const auto ids = [](const volume_record& record) {
        std::vector<replica_id> all;
        for (const replica_record& one : record.extents[0].replicas) all.push_back(one.id);
        return all;
    };
    const bool changed = ids(before) != ids(after);
    for (const replica_id& id : ids(after)) listed_.insert(id);
    for (const auto& one : writers_) {
        if (one->over()) continue;
        if (one->epoch() == after.epoch ? changed : in_.time.one_in(8)) one->hear_of_record();
    }
}

void world::process_dies(std::size_t server) {
    in_.servers[server]->process_dies();
    for (const auto& one : writers_) one->lose_links(server, true);
}

void world::kernel_dies(std::size_t server) {
    in_.servers[server]->kernel_dies();
    in_.rules->on_kernel_death(server);
    for (const auto& one : writers_) one->lose_links(server, true);
}

void world::add_replica() {
    const std::size_t index = in_.add_server(true);
    in_.log.say("r{} is added", index);
    in_.record.commit(
        static_cast<std::uint32_t>(in_.time.random(nodes)),
        [this, index](volume_record now) -> result<volume_record> {
            auto& all = now.extents[0].replicas;
            const replica_record fresh = born_replica(index, false);
            // An id is used once: one whose first attempt went through unheard is not added again after its removal.
            if (all.size() < members_max && listed_.count(fresh.id) == 0) all.push_back(fresh);
            return now;
        },
        [](const auto&) {});
}

void world::remove_replica(std::size_t server) {
    const replica_id id(fmt::format("r{}", server));
    in_.log.say("{} is to be removed", id.str());
    in_.record.commit(
        static_cast<std::uint32_t>(in_.time.random(nodes)),
        [this, id](volume_record now) -> result<volume_record> {
            auto& all = now.extents[0].replicas;
            // The writer reads on from it until it is told: another one must have everything, and readable.
            const replica_record* known = in_.record.find(id);
            if (known != nullptr && known->state == replica_state::up_to_date) {
                if (!in_.rules->others_protect(server_of(id))) return error{errc::no_quorum, "only it has everything"};
                for (const replica_record& one : all)
                    if (in_.servers[server_of(one.id)]->data.any_rotten()) return error{errc::no_quorum, "not now"};
            }
            std::erase_if(all, [&](const auto& one) { return one.id == id; });
            const auto trusted = static_cast<std::uint32_t>(std::count_if(
                all.begin(), all.end(), [](const auto& one) { return one.state == replica_state::up_to_date; }));
            const bool whole = std::any_of(all.begin(), all.end(), [&](const auto& one) {
                return one.state == replica_state::up_to_date && !one.recovering &&
                       !in_.servers[server_of(one.id)]->data.gone;
            });
            if (!whole || trusted < now.min_replicas) return error{errc::no_quorum, "it is needed"};
            return now;
        },
        [this, id](const auto& made) {
            removed_any_ = removed_any_ || made.has_value();
            in_.log.say("{} is {}", id.str(), made.has_error() ? "kept" : "removed");
        });
}

void world::wake_writer() {
    for (const auto& one : writers_) one->go_on();
}

void world::applications() {
    for (const auto& one : writers_) {
        if (one->over() || one->hung() || in_.apps.open(one->epoch()) >= 6 || in_.time.one_in(3)) continue;
        one->submit_one();
    }
    const writer* last = last_writer();
    if (last == nullptr || (last->over() && in_.time.one_in(4))) attach();
    // Its node does not renew its lease: others want the volume.
    if (last != nullptr && leases_drawn_ && in_.leased.expired(last->node()) && in_.time.one_in(8)) attach();
}

void world::run() {
    attach();
    for (std::uint32_t i = 0; i < options_.steps; ++i) {
        applications();
        faults_->step();
        in_.time.run_until(in_.time.within_us(in_.time.one_in(10) ? 60000 : 1500));
    }
    heal_and_check();
}

void world::explain_slots() {
    for (const slot_status& slot : writers_.back()->status().slots)
        in_.log.say("{} {}{} link {}{} done {}{}", slot.id.str(), weft::to_string(slot.state),
                    slot.recovering ? " recovering" : "", slot.link_up ? "up" : "down",
                    slot.resyncing ? " resyncing" : "", slot.resync_done_bytes, slot.full ? " full" : "");
}

void world::wait_until(const char* what, milliseconds limit, const std::function<bool()>& done) {
    if (in_.time.run_until(in_.time.now() + limit, done)) return;
    if (writers_.empty()) in_.log.blame("{}: nobody attached", what);
    explain_slots();
    const engine_status status = writers_.back()->status();
    in_.log.blame("{}, epoch {} is {}, {} requests, {} bytes to recover, {} dirty, {}", what, writers_.back()->epoch(),
                  core::to_string(status.state), in_.apps.open(writers_.back()->epoch()), status.recovery_left_bytes,
                  status.dirty_bytes, status.holding ? "holding" : "not holding");
}

/// What two failures at a time leave to people: a drive that was pulled and turns out to be the only one that the
/// record trusts is put back; a block that has rotted on every replica that the record trusts is restored.
void world::operator_helps() {
    const auto& all = in_.record.replicas();
    const auto trusted = std::count_if(all.begin(), all.end(), [this](const auto& one) {
        return one.state == replica_state::up_to_date && !one.recovering && !in_.servers[server_of(one.id)]->data.gone;
    });
    for (std::size_t i = 0; i < in_.servers.size(); ++i)
        if (in_.servers[i]->data.gone && !in_.rules->others_protect(i)) in_.servers[i]->data.gone = false;
    for (const auto& server : in_.servers)
        if (trusted < in_.record.record().min_replicas) server->data.gone = false;
    for (std::uint32_t b = 0; b < blocks; ++b) {
        bool somewhere = false;
        for (const replica_record& one : in_.record.replicas())
            somewhere = somewhere || (one.state == replica_state::up_to_date && !one.recovering &&
                                      !in_.servers[server_of(one.id)]->data.rotten(b));
        for (const auto& server : in_.servers)
            if (!somewhere) server->data.heal(b);
    }
    in_.time.at(in_.time.now() + milliseconds(50), [this] { operator_helps(); });
}

/// A scrub finds every block that has rotted, and repairs it from another replica. A replica that was on its way out of
/// the record is not scrubbed, and may be back at the end: it is the second scrub that must leave nothing. False if the
/// writer ended meanwhile.
bool world::scrub(writer& last) {
    const auto rotten = [&] {
        std::string where;
        for (const replica_record& one : in_.record.replicas())
            for (std::uint32_t b = 0; b < blocks; ++b)
                if (one.state == replica_state::up_to_date && in_.servers[server_of(one.id)]->data.rotten(b))
                    where = fmt::format("block {} of {}", b, one.id.str());
        return where;
    };
    for (int round = 0; round < 2; ++round) {
        if (!scrub_once(last)) return false;
        if (in_.record.replicas().size() < 2 || rotten().empty()) return true;
        wait_until("not healed after a scrub", milliseconds(600000), [&] { return last.over() || well(last); });
        if (last.over()) return false;
    }
    in_.log.blame("the scrub has left {} unreadable", rotten());
    return false;
}

bool world::scrub_once(writer& last) {
    engine_policy policy;
    policy.scrub = ++scrubs_;
    last.change_policy(policy);
    wait_until("the scrub does not end", milliseconds(60000), [&] {
        const scrub_status now = last.status().scrub;
        return last.over() || (now.serial == scrubs_ && !now.running);
    });
    return !last.over();
}

/// It serves, and the record, the engine and the applications want for nothing.
bool world::well(const writer& last) const {
    const auto& all = in_.record.replicas();
    const engine_status seen = last.status();
    return seen.state == engine_state::serving && in_.apps.open(last.epoch()) == 0 && seen.recovery_left_bytes == 0 &&
           std::all_of(seen.slots.begin(), seen.slots.end(),
                       [](const auto& one) { return one.state == replica_state::up_to_date; }) &&
           std::all_of(all.begin(), all.end(),
                       [](const auto& one) { return one.state == replica_state::up_to_date && !one.recovering; });
}

/// Waits until the last writer has brought every replica up to date, and detaches it. False if there is none that
/// serves, or if it said that it leaves the replicas unequal.
bool world::detach_equal() {
    writer& last = *writers_.back();
    const auto gone = [&] { return last.over() || attaching_; };
    if (gone()) return false;
    const auto detaching = [&] {
        return last.state() == engine_state::detaching || last.state() == engine_state::detached;
    };
    wait_until("not healed", milliseconds(600000), [&] { return gone() || (detaching() ? last.over() : well(last)); });
    if (gone()) return false;
    const std::uint64_t before = in_.apps.acknowledged();
    for (int i = 0; i < 8; ++i) last.submit_one();
    wait_until("requests are not answered", milliseconds(60000), [&] { return in_.apps.open(last.epoch()) == 0; });
    if (gone()) return false;
    if (in_.apps.acknowledged() == before) in_.log.blame("a healthy volume acknowledges nothing");
    if (!scrub(last)) return false;
    if (!removed_any_ && in_.time.one_in(2))
        wait_until("the bitmap is never cleared", milliseconds(60000),
                   [&] { return gone() || last.status().dirty_bytes == 0; });
    if (gone()) return false;
    last.detach();
    wait_until("does not detach", milliseconds(60000), [&] { return last.over(); });
    return last.released() && in_.record.record().clean;
}

void world::heal_and_check() {
    in_.log.say("everything heals");
    faults_->repair_all();
    // A forgetful kernel beside unreadable blocks: two failures, of which an operator restores one.
    for (const auto& forgetful : in_.servers)
        for (const auto& server : in_.servers)
            for (std::uint32_t b = 0; forgetful->kernel_died() != 0 && b < blocks; ++b) server->data.heal(b);
    for (std::size_t i = 0; i < in_.servers.size(); ++i)
        if (in_.servers[i]->data.gone) remove_gone(i);
    operator_helps();
    for (int round = 0;; ++round) {
        if (!writers_.empty() && detach_equal()) break;
        if (round == 12) in_.log.blame("no writer can leave the replicas equal");
        const std::size_t before = writers_.size();
        wait_until("does not attach", milliseconds(60000), [&] {
            if (writers_.size() > before) return true;
            attach();
            return false;
        });
    }
    check_blocks();
    in_.apps.check_order();
}

/// The healing weftd takes a destroyed replica out of the record as soon as the engine has demoted it. It may not be in
/// the record yet: the store answers late.
void world::remove_gone(std::size_t server) {
    const replica_id id(fmt::format("r{}", server));
    if (!in_.servers[server]->data.gone) return;
    if (in_.record.find(id) != nullptr) remove_replica(server);
    in_.time.at(in_.time.now() + milliseconds(20), [this, server] { remove_gone(server); });
}

/// Laws 1 and 4: what every replica that the record trusts has on its drive is the same, and explained by history.
void world::check_blocks() {
    for (std::uint32_t b = 0; b < blocks; ++b) {
        bool first = true;
        value expected = 0;
        for (const replica_record& one : in_.record.replicas()) {
            const disk& it = in_.servers[server_of(one.id)]->data;
            if (one.state != replica_state::up_to_date || it.rotten(b)) continue;
            const value v = it.stable(b).v;
            if (first && !in_.apps.explains(b, v))
                in_.log.blame("law 1: block {} ended as {} on {}; {}", b, v, one.id.str(), in_.apps.explain(b));
            if (!first && v != expected)
                in_.log.blame("law 4: block {} differs: {}, and {} on {}", b, expected, v, one.id.str());
            expected = v;
            first = false;
        }
    }
}

}  // namespace weft::sim
