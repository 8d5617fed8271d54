// SPDX-License-Identifier: Apache-2.0
// The parts of a world that a writer and the faults reach: time, network, store, servers, applications, laws.
#pragma once

#include "tests/sim/clients.hpp"
#include "tests/sim/laws.hpp"
#include "tests/sim/leases.hpp"
#include "tests/sim/network.hpp"
#include "tests/sim/replica_server.hpp"
#include "tests/sim/store.hpp"

namespace weft::sim {

struct cluster {
    cluster(std::uint64_t seed, bool traced, std::uint64_t watched, volume_record born, std::uint64_t region)
        : time(seed),
          log(time, traced, watched),
          record(time, log, net, std::move(born)),
          leased(time, record, net),
          apps(time, log),
          region_bytes(region) {
        for (std::size_t i = 0; i < record.replicas().size(); ++i) add_server(false);
        rules = std::make_unique<laws>(time, log, record, servers, apps);
        record.watch([this](const auto&, const auto& after) { rules->on_record(after); });
        time.watch([this] { rules->check_clean_regions(); });
    }
    cluster(const cluster&) = delete;
    cluster& operator=(const cluster&) = delete;

    /// Its index is the number in its replica's name.
    std::size_t add_server(bool all_dirty) {
        servers.push_back(
            std::make_unique<replica_server>(time, log, fmt::format("r{}", servers.size()), region_bytes, all_dirty));
        return servers.size() - 1;
    }

    schedule time;
    trace log;
    network net;
    store record;
    leases leased;
    clients apps;
    std::uint64_t region_bytes;
    server_list servers;
    std::unique_ptr<laws> rules;
};

}  // namespace weft::sim
