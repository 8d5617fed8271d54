// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/faults.hpp"

#include <algorithm>
#include <array>

#include "tests/sim/world.hpp"

namespace weft::sim {

std::string_view to_string(fault kind) {
    constexpr std::array<std::string_view, static_cast<std::size_t>(fault::count)> names{
        "process_dies",    "kernel_dies",     "server_hangs", "links_cut",  "partition", "node_cut_off",
        "store_away",      "writer_hangs",    "writer_dies",  "takeover",   "detach",    "replica_added",
        "replica_removed", "drive_destroyed", "drive_full",   "block_rots", "policy"};
    return names[static_cast<std::size_t>(kind)];
}

faults::faults(cluster& in, world& around) : in_(in), around_(around), rate_(4 + in.time.random(24)) {
    std::string names;
    for (int i = 0; i < static_cast<int>(fault::count); ++i) {
        if (!in_.time.one_in(2)) continue;
        enabled_.push_back(static_cast<fault>(i));
        names += fmt::format(" {}", to_string(enabled_.back()));
    }
    in_.log.say("faults, one in {} steps:{}", rate_, names);
}

void faults::step() {
    if (in_.time.one_in(rate_) && !enabled_.empty()) happen(enabled_[in_.time.random(enabled_.size())]);
    if (in_.time.one_in(rate_)) repair_something();
}

/// A server of the record, now and then one of those that it had.
std::size_t faults::any_member() {
    if (in_.time.one_in(16)) return in_.time.random(in_.servers.size());
    const auto& all = in_.record.replicas();
    return server_of(all[in_.time.random(all.size())].id);
}

void faults::happen(fault kind) {
    const std::size_t index = any_member();
    replica_server& server = *in_.servers[index];
    writer* last = around_.last_writer();
    switch (kind) {
        case fault::process_dies:
            if (!server.alive()) return;
            in_.log.say("FAULT {}: its process dies", server.name());
            around_.process_dies(index);
            return;
        case fault::kernel_dies: kernel_dies(index); return;
        case fault::server_hangs:
            if (!server.alive() || server.hung()) return;
            in_.log.say("FAULT {} hangs", server.name());
            server.hang();
            return;
        case fault::links_cut: {
            if (last == nullptr) return;
            in_.log.say("FAULT the connections of epoch {} to {} are cut", last->epoch(), server.name());
            last->lose_links(index, false);
            return;
        }
        case fault::partition: partition(); return;
        case fault::node_cut_off: cut_node_off(); return;
        case fault::store_away:
            if (in_.time.one_in(2)) {
                in_.log.say("FAULT the store is away");
                in_.record.go_away();
            } else {
                const auto node = static_cast<std::uint32_t>(in_.time.random(nodes));
                in_.log.say("FAULT node n{} does not reach the store", node);
                in_.net.cut_store(node);
            }
            return;
        case fault::writer_hangs:
            if (last != nullptr && !last->over() && !last->hung()) last->hang();
            return;
        case fault::writer_dies:
            if (last != nullptr && !last->over()) last->die();
            return;
        case fault::takeover: around_.attach(); return;
        case fault::detach:
            if (last != nullptr && !last->over()) last->detach();
            return;
        case fault::replica_added: add_replica(); return;
        case fault::replica_removed: remove_replica(); return;
        case fault::drive_destroyed: destroy_drive(); return;
        case fault::drive_full:
            in_.log.say("FAULT the drive of {} is full", server.name());
            server.data.full = server.data.was_full = true;
            return;
        case fault::block_rots: rot(); return;
        case fault::policy: change_policy(); return;
        case fault::count: return;
    }
}

void faults::repair_something() {
    const std::size_t index = any_member();
    replica_server& server = *in_.servers[index];
    switch (in_.time.random(4)) {
        case 0:
        case 1:
            if (!server.alive()) in_.log.say("{} is back", server.name());
            if (server.hung()) in_.log.say("{} goes on", server.name());
            server.start();
            server.go_on();
            server.data.full = false;
            return;
        case 2: {
            const auto node = static_cast<std::uint32_t>(in_.time.random(nodes));
            in_.net.heal(node);
            if (!in_.record.up()) in_.log.say("the store is back");
            in_.record.come_back();
            return;
        }
        default: around_.wake_writer();
    }
}

/// Any kernel at any time: law 1's account (laws.hpp) knows what is still promised afterwards. One exception: while the
/// record trusts a drive that is destroyed, going on without the other's unflushed writes is an operator's decision.
void faults::kernel_dies(std::size_t index) {
    for (const replica_record& one : in_.record.replicas())
        if (one.state == replica_state::up_to_date && in_.servers[server_of(one.id)]->data.gone) return;
    // An unreadable block and a kernel's death on another replica: nobody has that block.
    for (const replica_record& one : in_.record.replicas())
        if (server_of(one.id) != index && in_.servers[server_of(one.id)]->data.any_rotten()) return;
    // What law 1 still promises is looked at more often than what it does not.
    if (!in_.rules->others_protect(index) && !in_.time.one_in(4)) return;
    in_.log.say("FAULT {}: its kernel dies", in_.servers[index]->name());
    around_.kernel_dies(index);
}

void faults::partition() {
    const auto node = static_cast<std::uint32_t>(in_.time.random(nodes));
    const auto server = static_cast<std::uint32_t>(any_member());
    const auto which = in_.time.random(3);
    in_.log.say("FAULT node n{} and r{}: cut {}", node, server,
                which == 0   ? "in both directions"
                : which == 1 ? "on the way there"
                             : "on the way back");
    if (which != 2) in_.net.cut(node, server, direction::to_server);
    if (which != 1) in_.net.cut(node, server, direction::from_server);
}

void faults::cut_node_off() {
    const writer* last = around_.last_writer();
    const bool the_writers = last != nullptr && in_.time.one_in(2);
    const auto node = the_writers ? last->node() : static_cast<std::uint32_t>(in_.time.random(nodes));
    const bool store_too = in_.time.one_in(2);
    const bool but_its_own = in_.time.one_in(2);
    in_.log.say("FAULT node n{} is cut off from all {}servers{}", node, but_its_own ? "other " : "",
                store_too ? " and the store" : "");
    for (std::uint32_t i = 0; i < in_.servers.size(); ++i) {
        if (but_its_own && i % nodes == node) {
            // What is on that host is cut off with it.
            for (std::uint32_t other = 0; other < nodes; ++other)
                if (other != node) in_.net.cut(other, i, direction::to_server);
            continue;
        }
        in_.net.cut(node, i, direction::to_server);
        in_.net.cut(node, i, direction::from_server);
    }
    if (store_too) in_.net.cut_store(node);
    if (the_writers && in_.time.one_in(2)) around_.attach();  // where leases are drawn: if this one's has run out
}

/// The record gets a new replica: born inconsistent, every bit set.
void faults::add_replica() {
    if (in_.record.replicas().size() >= 3 || in_.servers.size() >= 12) return;
    around_.add_replica();
}

/// Never the last up_to_date one, nor one that min_replicas needs, nor the last that has everything.
void faults::remove_replica() {
    if (in_.record.replicas().size() < 2) return;
    const std::size_t index = any_member();
    around_.remove_replica(index);
}

/// Only while another up_to_date replica has everything: else what to go on from is an operator's decision (R12).
void faults::destroy_drive() {
    const std::size_t index = any_member();
    replica_server& server = *in_.servers[index];
    if (server.data.gone || !in_.rules->others_protect(index)) return;
    for (const auto& one : in_.servers)
        if (one->data.gone) return;
    for (const replica_record& one : in_.record.replicas())
        if (in_.servers[server_of(one.id)]->data.any_rotten()) return;
    std::size_t trusted = 0;
    for (const replica_record& one : in_.record.replicas())
        if (one.state == replica_state::up_to_date && !one.recovering) ++trusted;
    if (trusted < 2 || trusted <= in_.record.record().min_replicas) return;
    in_.log.say("FAULT the drive of {} is destroyed", server.name());
    around_.process_dies(index);
    server.data.gone = true;
    server.start();
}

/// Only a block that another up_to_date replica still has.
void faults::rot() {
    const std::size_t index = any_member();
    const std::uint64_t b = in_.time.random(blocks);
    bool elsewhere = false;
    for (const replica_record& one : in_.record.replicas()) {
        const std::size_t other = server_of(one.id);
        elsewhere = elsewhere || (other != index && one.state == replica_state::up_to_date && !one.recovering &&
                                  !in_.servers[other]->data.rotten(b) && !in_.servers[other]->data.gone);
    }
    if (!elsewhere || !in_.rules->others_protect(index)) return;
    in_.log.say("FAULT block {} of {} rots", b, in_.servers[index]->name());
    in_.servers[index]->data.rot(b);
}

void faults::change_policy() {
    writer* last = around_.last_writer();
    if (last == nullptr || last->over()) return;
    last->change_policy(around_.draw_policy());
}

void faults::repair_all() {
    in_.record.come_back();
    in_.net.heal();
    for (const auto& server : in_.servers) {
        server->start();
        server->go_on();
        server->data.full = false;
    }
    around_.wake_writer();
}

}  // namespace weft::sim
