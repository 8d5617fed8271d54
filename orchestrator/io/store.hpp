// SPDX-License-Identifier: Apache-2.0
// The cluster store: everything that all nodes must agree on, behind one interface (SQLite file here, etcd later).
//
// A flat map from key to value. Every commit gets the next *revision* (1, 2, 3, …; 0 = never), and every key remembers
// the revision that last wrote it. All changes are compare-and-swap on those; there is no other locking.
//
// Laws: a commit happens entirely or not at all, and is durable before commit() returns. Reads see only committed
// state. `errc::unavailable` promises that nothing was changed; `errc::outcome_unknown` promises nothing: read and
// look. Keys: volumes/<name>  nodes/<name>  drives/<uuid>  trash/<replica uuid>  events/<sortable>  cluster
// Thread-safe; calls block for at most about `store_timeout`.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"

namespace weft {

inline constexpr std::chrono::milliseconds store_timeout{2000};

struct store_entry {
    std::string key;
    std::string value;
    std::uint64_t revision = 0;  // of the commit that last wrote this key
};

struct store_snapshot {
    std::uint64_t revision = 0;        // of the newest commit that it contains
    std::vector<store_entry> entries;  // sorted by key
};

/// One atomic change: every `expect` must hold, then every put and erase is made.
struct store_commit {
    struct expectation {
        std::string key;
        std::uint64_t revision = 0;  // 0: the key must not exist
    };
    struct put {
        std::string key;
        std::string value;
    };
    std::vector<expectation> expect;
    std::vector<put> puts;
    std::vector<std::string> erases;
};

/// Liveness of a node: it renews, others read. Times are of the store, not of a node's wall clock.
struct lease {
    std::string name;                        // node
    std::string holder;                      // unique to the process that renews
    std::chrono::milliseconds remaining{0};  // until it expires; <= 0: expired
};

class store {
public:
    virtual ~store() = default;

    virtual result<std::optional<store_entry>> get(const std::string& key) = 0;
    virtual result<store_snapshot> list(const std::string& prefix) = 0;

    /// Returns the new revision. Errors: conflict (an expectation failed; nothing changed), unavailable,
    /// outcome_unknown.
    virtual result<std::uint64_t> commit(const store_commit& change) = 0;

    /// Blocks until the store's revision is greater than `seen` or the time is over; returns the revision now. Wakes at
    /// once on interrupt(). Never spins. Errors: unavailable (after having waited, so that a caller's loop does not
    /// spin).
    virtual result<std::uint64_t> wait_beyond(std::uint64_t seen, std::chrono::milliseconds timeout) = 0;
    /// Makes every present and the next wait_beyond return early. From any thread.
    virtual void interrupt() = 0;

    /// Takes or renews a lease for `ttl` from now. Errors: busy (another holder's lease has not expired), unavailable.
    virtual status renew_lease(const std::string& name, const std::string& holder, std::chrono::milliseconds ttl) = 0;
    /// Gives a lease up at once, if `holder` has it.
    virtual status drop_lease(const std::string& name, const std::string& holder) = 0;
    /// All leases ever taken, expired ones included, sorted by name.
    virtual result<std::vector<lease>> leases() = 0;
};

/// Opens a store by its URL: "sqlite:/path/to/file.db" (created if its directory exists). Errors: invalid_argument
/// (unknown scheme, no path), unavailable, corrupt (a file that is not a Weft store).
result<std::unique_ptr<store>> open_store(const std::string& url);

}  // namespace weft
