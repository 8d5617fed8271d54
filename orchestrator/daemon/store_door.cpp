// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/store_door.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "orchestrator/core/records.hpp"

namespace weft {

namespace {
constexpr std::string_view sqlite_scheme = "sqlite:";
constexpr std::chrono::milliseconds reopen_pause{1000};  // between attempts of a watcher to open the store
}  // namespace

store_door::store_door(std::string url, std::function<std::string()> known_cluster)
    : url_(std::move(url)), known_cluster_(std::move(known_cluster)) {}

status store_door::refuse_to_create(const std::string& cluster) const {
    if (cluster.empty() || !url_.starts_with(sqlite_scheme)) return ok();
    const std::filesystem::path file = url_.substr(sqlite_scheme.size());
    std::error_code failed;
    if (std::filesystem::exists(file, failed)) return ok();
    return error{
        errc::unavailable,
        fmt::format("{} is not there, and this node belongs to cluster {}: put the file back", file.native(), cluster)};
}

result<std::shared_ptr<store>> store_door::opened() {
    const std::lock_guard lock(mutex_);
    if (inner_) return inner_;
    const std::string cluster = known_cluster_();
    TRY(refuse_to_create(cluster));
    auto fresh = open_store(url_);
    if (fresh.has_error()) return std::move(fresh).error().within("open the store");
    if (!cluster.empty()) {
        TRY_ASSIGN(const auto entry, (*fresh)->get("cluster"));
        const auto record = entry ? decode_cluster(entry->value) : result<cluster_record>(cluster_record{});
        if (record.has_error()) return record.error().within("cluster record");
        if (record->id != cluster)
            return error{errc::unavailable,
                         fmt::format("{} is the store of cluster '{}', and this node belongs to cluster {}", url_,
                                     record->id, cluster)};
    }
    inner_ = std::move(*fresh);
    return inner_;
}

status store_door::open() {
    TRY(opened());
    return ok();
}

result<std::optional<store_entry>> store_door::get(const std::string& key) {
    TRY_ASSIGN(const auto inner, opened());
    return inner->get(key);
}

result<store_snapshot> store_door::list(const std::string& prefix) {
    TRY_ASSIGN(const auto inner, opened());
    return inner->list(prefix);
}

result<std::uint64_t> store_door::commit(const store_commit& change) {
    TRY_ASSIGN(const auto inner, opened());
    return inner->commit(change);
}

result<std::uint64_t> store_door::wait_beyond(std::uint64_t seen, std::chrono::milliseconds timeout) {
    auto inner = opened();
    if (inner.has_value()) return (*inner)->wait_beyond(seen, timeout);
    closed_wait_.wait_for(std::min(timeout, reopen_pause));
    return std::move(inner).error();
}

void store_door::interrupt() {
    closed_wait_.wake();
    std::shared_ptr<store> inner;
    {
        const std::lock_guard lock(mutex_);
        inner = inner_;
    }
    if (inner) inner->interrupt();
}

status store_door::renew_lease(const std::string& name, const std::string& holder, std::chrono::milliseconds ttl) {
    TRY_ASSIGN(const auto inner, opened());
    return inner->renew_lease(name, holder, ttl);
}

status store_door::drop_lease(const std::string& name, const std::string& holder) {
    TRY_ASSIGN(const auto inner, opened());
    return inner->drop_lease(name, holder);
}

result<std::vector<lease>> store_door::leases() {
    TRY_ASSIGN(const auto inner, opened());
    return inner->leases();
}

}  // namespace weft
