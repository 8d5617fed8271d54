// SPDX-License-Identifier: Apache-2.0
// The cluster store with the volume's record, and weftd's way of changing it: read, apply one of the product's own
// transitions (orchestrator/core/transitions.hpp), compare-and-swap on the revision, again until there is a definite
// answer. The store may be away, slow, or silent after it made the change; an attempt that was given up may still
// arrive, and then fails because of the revision.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "orchestrator/core/transitions.hpp"
#include "tests/sim/network.hpp"
#include "tests/sim/trace.hpp"

namespace weft::sim {

class store {
public:
    using change = std::function<result<volume_record>(volume_record)>;
    using answer = std::function<void(const result<volume_record>&)>;
    using observer = std::function<void(const volume_record& before, const volume_record& after)>;

    store(schedule& time, const trace& log, const network& net, volume_record born)
        : time_(time), log_(log), net_(net), record_(std::move(born)) {}

    [[nodiscard]] const volume_record& record() const { return record_; }
    [[nodiscard]] const std::vector<replica_record>& replicas() const { return record_.extents.front().replicas; }
    [[nodiscard]] const replica_record* find(const replica_id& id) const;

    void go_away() { up_ = false; }
    void come_back() { up_ = true; }
    [[nodiscard]] bool up() const { return up_; }

    /// Called at every committed change.
    void watch(observer each) { observers_.push_back(std::move(each)); }

    /// weftd on `node` makes the change; `told` hears the record as committed, or the transition's refusal. Endless
    /// while the store does not answer; `wanted` false ends it without a word.
    void commit(std::uint32_t node, change what, answer told, std::function<bool()> wanted = {});

private:
    struct attempt;
    void read(const std::shared_ptr<attempt>& it);
    void swap(const std::shared_ptr<attempt>& it, std::uint64_t round, std::uint64_t expected,
              const volume_record& made);
    void again(const std::shared_ptr<attempt>& it);
    [[nodiscard]] bool reached(std::uint32_t node) const { return up_ && net_.store_open(node); }

    schedule& time_;
    const trace& log_;
    const network& net_;
    volume_record record_;
    std::uint64_t revision_ = 1;
    bool up_ = true;
    std::vector<observer> observers_;
};

/// weftd's names for its nodes.
node_name node_of(std::uint32_t node);

}  // namespace weft::sim
