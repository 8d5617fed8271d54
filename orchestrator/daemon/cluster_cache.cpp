// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/cluster_cache.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

constexpr std::size_t file_max_bytes = 256 * mib;
constexpr int overtaken_max = 16;  // refreshes in a row that may lose against our own commits

/// The four prefixes one after the other: each is consistent in itself, and the reconciler is level-triggered, so that
/// seeing a volume and its trash at different revisions delays a step but never makes a wrong one. The oldest of the
/// revisions is the view's.
result<cluster_view> read_records(store& source) {
    cluster_view view;
    view.revision = std::numeric_limits<std::uint64_t>::max();
    constexpr std::array prefixes = {"volumes/", "nodes/", "drives/", "trash/"};
    for (const char* prefix : prefixes) {
        TRY_ASSIGN(const auto snapshot, source.list(prefix));
        view.revision = std::min(view.revision, snapshot.revision);
        for (const auto& entry : snapshot.entries) put_entry(view, entry.key, entry.value, entry.revision);
    }
    TRY_ASSIGN(const auto cluster, source.get("cluster"));
    if (cluster) put_entry(view, cluster->key, cluster->value, cluster->revision);
    return view;
}

result<std::map<node_name, seen_lease>> read_leases(store& source) {
    TRY_ASSIGN(const auto leases, source.leases());
    std::map<node_name, seen_lease> seen;
    for (const auto& one : leases) seen[node_name(one.name)] = {one.remaining, monotonic_now()};
    return seen;
}

}  // namespace

cluster_cache::cluster_cache(store& source, std::filesystem::path file)
    : source_(source), file_(std::move(file)), view_(std::make_shared<cluster_view>()) {}

status cluster_cache::load() {
    TRY_ASSIGN(const auto text, read_file(file_, file_max_bytes));
    if (!text) return ok();
    TRY_ASSIGN(auto loaded, decode_cluster_view(*text));
    const std::lock_guard lock(mutex_);
    publish(std::move(loaded));
    from_disk_ = true;
    return ok();
}

std::shared_ptr<const cluster_view> cluster_cache::view() const {
    const std::lock_guard lock(mutex_);
    return view_;
}

std::string cluster_cache::cluster_id() const {
    const auto now = view();
    return now->cluster ? now->cluster->record.id : std::string();
}

cluster_cache::availability cluster_cache::available() const {
    const std::lock_guard lock(mutex_);
    return available_;
}

void cluster_cache::note_commit_trouble(const std::string& problem) {
    const std::lock_guard lock(mutex_);
    commit_trouble_ = problem;
}

cluster_cache::availability cluster_cache::fully_available() const {
    const std::lock_guard lock(mutex_);
    if (!available_.current || commit_trouble_.empty()) return available_;
    return {false, "it can be read but not changed: " + commit_trouble_};
}

void cluster_cache::publish(cluster_view fresh) {
    view_ = std::make_shared<const cluster_view>(std::move(fresh));
    changed_.notify_all();
}

status cluster_cache::refresh() {
    for (int attempt = 0; attempt < overtaken_max; ++attempt) {
        auto records = read_records(source_);
        auto leases = records.has_value() ? read_leases(source_) : result<std::map<node_name, seen_lease>>(error{});
        const std::lock_guard lock(mutex_);
        if (records.has_error() || leases.has_error()) {
            const error& problem = records.has_error() ? records.error() : leases.error();
            available_ = {false, problem.text};
            return problem;
        }
        if (records->revision < own_revision_) continue;
        records->leases = std::move(*leases);
        available_ = {true, {}};
        // An older look than the present view is possible only when two threads refresh at a time: keep the newer.
        // The copy on disk yields to whatever the store says, were it restored from an old backup.
        if (from_disk_ || records->revision >= view_->revision) publish(std::move(*records));
        from_disk_ = false;
        return ok();
    }
    return error{errc::unavailable, "the store's lists are older than our own commits"};
}

status cluster_cache::refresh_leases() {
    auto leases = read_leases(source_);
    const std::lock_guard lock(mutex_);
    if (leases.has_error()) {
        available_ = {false, leases.error().text};
        return std::move(leases).error();
    }
    cluster_view fresh = *view_;
    fresh.leases = std::move(*leases);
    publish(std::move(fresh));
    return ok();
}

void cluster_cache::put(const std::string& key, const std::string& value, std::uint64_t revision) {
    const std::lock_guard lock(mutex_);
    own_revision_ = std::max(own_revision_, revision);
    if (!from_disk_ && view_->revision >= revision) return;  // the watcher was faster, and may have seen newer ones
    if (entry_revision(*view_, key) > revision) return;      // another thread committed after us and came here first
    cluster_view fresh = *view_;
    put_entry(fresh, key, value, revision);
    fresh.revision = std::max<std::uint64_t>(fresh.revision, 1);
    publish(std::move(fresh));
}

void cluster_cache::erase(const std::string& key, std::uint64_t revision) {
    const std::lock_guard lock(mutex_);
    own_revision_ = std::max(own_revision_, revision);
    if (!from_disk_ && view_->revision >= revision) return;
    cluster_view fresh = *view_;
    erase_entry(fresh, key);
    publish(std::move(fresh));
}

bool cluster_cache::wait_until(const std::function<bool(const cluster_view&)>& done,
                               std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, deadline, [&] { return stopping_ || done(*view_); }) && !stopping_;
}

void cluster_cache::stop_waiting() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
}

status cluster_cache::save() {
    const std::lock_guard saving(save_mutex_);
    std::string text = encode(*view());
    if (text == saved_) return ok();
    TRY(write_file_atomically(file_, text));
    saved_ = std::move(text);
    return ok();
}

}  // namespace weft
