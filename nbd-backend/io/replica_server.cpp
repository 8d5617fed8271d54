// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_server.hpp"

#include <fmt/format.h>

#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/io/replica_dir.hpp"

namespace weft::io {

result<std::unique_ptr<replica_connection>> replica_server::open(std::string_view export_name) {
    TRY_ASSIGN(auto name, core::parse_export_name(export_name));
    TRY_ASSIGN(auto replica, acquire(name.replica));
    core::admission_gate::ticket ticket = 0;
    if (name.is_writer()) {
        auto entered = replica->enter(name.key);
        if (entered.has_error()) {
            release(name.replica);
            return std::move(entered).error().within(fmt::format("open {}", render(name)));
        }
        ticket = *entered;
    }
    auto on_close = [this, id = name.replica] { release(id); };
    if (name.is_map)
        return std::make_unique<map_connection>(std::move(name), std::move(replica), ticket, std::move(on_close));
    return std::make_unique<data_connection>(std::move(name), std::move(replica), ticket, std::move(on_close));
}

result<std::vector<replica_id>> replica_server::list() const {
    return list_replicas(drive_);
}

result<std::shared_ptr<served_replica>> replica_server::acquire(const replica_id& id) {
    const auto context = [&] { return fmt::format("replica {} on {}", id.str(), drive_); };
    const std::lock_guard lock(mutex_);
    const auto known = entries_.find(id);
    if (known != entries_.end() && known->second.failed)
        return error{errc::io_failed, "a sync failed: restart the replica server"}.within(context());
    if (known != entries_.end() && known->second.live) {
        auto& live = known->second.live;
        if (live->is_failed())
            return error{errc::io_failed, "a sync failed: restart the replica server"}.within(context());
        if (!live->file().is_at(drive_))
            return error{errc::not_found, "it was removed; earlier connections still have it open"}.within(context());
        ++known->second.connections;
        return live;
    }
    auto file = replica_file::open(drive_, id);
    if (file.has_error()) return std::move(file).error().within(context());
    auto& fresh = entries_[id];
    fresh.live = std::make_shared<served_replica>(std::move(*file), fresh.highest, boot_id_, space_, report_);
    fresh.connections = 1;
    return fresh.live;
}

void replica_server::release(const replica_id& id) noexcept {
    std::shared_ptr<served_replica> last;  // closes its files after the lock is gone: freeing a removed one takes time
    const std::lock_guard lock(mutex_);
    const auto known = entries_.find(id);
    INVARIANT(known != entries_.end() && known->second.connections > 0, "replica {} was released twice", id.str());
    if (--known->second.connections > 0) return;
    last = std::move(known->second.live);
    known->second.highest = last->highest();
    known->second.failed = last->is_failed();
    if (!last->file().is_at(drive_)) entries_.erase(known);
}

}  // namespace weft::io
