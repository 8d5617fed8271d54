// SPDX-License-Identifier: Apache-2.0
// The replicas of one drive as connections use them.
//
//   replica_server  1 ── n  served_replica (files, fence, syncs)  1 ── n  replica_connection (key, ticket)
//
// Law: the highest (epoch, session) of a replica and its failure are remembered after the last connection closed; the
// files are not kept open.
//
// Thread rule: everything from any thread. The list of replicas is locked while a replica's files are opened.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/failure_latch.hpp"
#include "nbd-backend/io/replica_connection.hpp"
#include "nbd-backend/io/served_replica.hpp"
#include "nbd-backend/io/space_guard.hpp"

namespace weft::io {

class replica_server {
public:
    /// `drive`: an initialised drive whose lock the caller holds. `boot_id`: of this kernel.
    replica_server(std::string drive, std::string boot_id, failure_reporter report)
        : drive_(std::move(drive)),
          boot_id_(std::move(boot_id)),
          report_(std::move(report)),
          space_([this] { return measure_drive(drive_); }) {}

    /// Opens an export by its name; a stale writer gets a connection on which every request fails. Blocks while
    /// requests of lower keys are under way. Errors: invalid_argument (the name), not_found, busy (removed, and created
    /// again while old connections are open), corrupt, unsupported, io_failed.
    result<std::unique_ptr<replica_connection>> open(std::string_view export_name);

    /// Errors: not_found, io_failed.
    [[nodiscard]] result<std::vector<replica_id>> list() const;

    [[nodiscard]] const std::string& boot_id() const noexcept { return boot_id_; }

private:
    struct entry {
        std::shared_ptr<served_replica> live;  // while connections > 0
        std::uint64_t connections = 0;
        core::fence_key highest;
        bool failed = false;
    };
    result<std::shared_ptr<served_replica>> acquire(const replica_id& id);
    void release(const replica_id& id) noexcept;

    const std::string drive_;
    const std::string boot_id_;
    const failure_reporter report_;
    space_guard space_;
    std::mutex mutex_;
    std::map<replica_id, entry> entries_;  // under mutex_
};

}  // namespace weft::io
