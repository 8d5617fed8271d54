// SPDX-License-Identifier: Apache-2.0
// The store as weftd holds it: opened when it can be, tried again when it could not, and never mistaken for another.
//
// weftd must come up without its store (Docker's reads are then answered from the copy on disk), so opening is part of
// every call until it has succeeded. A node that already belongs to a cluster neither creates a new store (a SQLite
// file that was moved away must not be replaced by an empty one: "no volume exists" would be a lie with consequences)
// nor accepts one of another cluster. Thread rule as store.hpp's.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "orchestrator/daemon/gates.hpp"
#include "orchestrator/io/store.hpp"

namespace weft {

class store_door final : public store {
public:
    /// `known_cluster` gives the id of the cluster that this node belongs to, empty while it is not known.
    store_door(std::string url, std::function<std::string()> known_cluster);

    /// Opens if it is not open yet. Errors: as open_store; unavailable when it is not (yet) the store of our cluster.
    status open();

    result<std::optional<store_entry>> get(const std::string& key) override;
    result<store_snapshot> list(const std::string& prefix) override;
    result<std::uint64_t> commit(const store_commit& change) override;
    result<std::uint64_t> wait_beyond(std::uint64_t seen, std::chrono::milliseconds timeout) override;
    void interrupt() override;
    status renew_lease(const std::string& name, const std::string& holder, std::chrono::milliseconds ttl) override;
    status drop_lease(const std::string& name, const std::string& holder) override;
    result<std::vector<lease>> leases() override;

private:
    result<std::shared_ptr<store>> opened();
    [[nodiscard]] status refuse_to_create(const std::string& cluster) const;

    const std::string url_;
    const std::function<std::string()> known_cluster_;
    std::mutex mutex_;              // guards inner_ while it is being opened
    std::shared_ptr<store> inner_;  // null until it could be opened, then for good
    wake_gate closed_wait_;         // where wait_beyond waits while there is nothing to wait on
};

}  // namespace weft
