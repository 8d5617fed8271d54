// SPDX-License-Identifier: Apache-2.0
// One NBD connection to a replica: its data, or its write-intent bitmap as an export of the same size.
//
//   data_connection   bytes and holes of the replica
//   map_connection    reads 0xff where a region is dirty and 0 where it is clean; its extents are runs of dirty (data)
//                     and clean (hole) regions; trim makes those regions clean that lie wholly inside; flush makes what
//                     was cleared durable; nothing else changes it
//
// Both are admitted by the same fence under the same key. Requests of one connection may run at the same time; each
// returns 0 or an errno that NBD can carry: ESHUTDOWN (fenced), EINVAL (not whole blocks, or too long), EPERM (not by
// this connection), ENOSPC, EIO, ENOTSUP. A connection belongs to the server that made it and must not outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/io/served_replica.hpp"

namespace weft::io {

class replica_connection {
public:
    /// `on_close` runs when the connection is gone.
    replica_connection(core::export_name name, std::shared_ptr<served_replica> replica,
                       core::admission_gate::ticket ticket, std::function<void()> on_close);
    virtual ~replica_connection();
    replica_connection(const replica_connection&) = delete;
    replica_connection& operator=(const replica_connection&) = delete;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return replica_->file().size_bytes(); }
    [[nodiscard]] bool is_writer() const noexcept { return name_.is_writer(); }
    [[nodiscard]] bool is_map() const noexcept { return name_.is_map; }
    /// As it was when the connection was opened.
    [[nodiscard]] const std::string& description() const noexcept { return description_; }

    virtual int read(std::span<std::byte> buffer, std::uint64_t offset) noexcept = 0;
    virtual int write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept = 0;
    virtual int zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept = 0;
    virtual int trim(std::uint64_t offset, std::uint64_t length, bool fua) noexcept = 0;
    virtual int flush() noexcept = 0;

    /// Calls add(extent) from `offset` on, in order, until `length` is covered or add returns false.
    template <typename Add>
    int extents(std::uint64_t offset, std::uint64_t length, Add add) noexcept {
        return admitted(effect::none, offset, length, [&]() noexcept {
            const std::uint64_t end = offset + length;
            for (file_extent found{offset, 0, false}; found.offset + found.length < end;) {
                if (const int problem = extent_at(found.offset + found.length, end, found); problem != 0)
                    return problem;
                if (!add(found)) break;
            }
            return 0;
        });
    }

protected:
    /// What a request does: changes need room, a look has none but `none`.
    enum class effect : std::uint8_t { none, sync, clear, change };

    /// As replica_file::extent_at.
    virtual int extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) noexcept = 0;

    [[nodiscard]] served_replica& replica() noexcept { return *replica_; }

    template <typename Work>
    int admitted(effect has, std::uint64_t offset, std::uint64_t length, Work work) noexcept {
        if (offset % block_bytes != 0 || length % block_bytes != 0) return EINVAL;
        if (offset > size_bytes() || length > size_bytes() - offset) return has == effect::change ? ENOSPC : EINVAL;
        if (is_writer()) {
            if (!replica_->admit(ticket_)) return ESHUTDOWN;
        } else if (has != effect::none) {
            return EPERM;
        }
        // Between admit and retire: the next key waits for us.
        const int problem = replica_->is_failed() ? EIO : work();
        if (is_writer()) replica_->retire();
        return problem;
    }

private:
    const core::export_name name_;
    const std::shared_ptr<served_replica> replica_;
    const core::admission_gate::ticket ticket_;  // 0: stale, or a look
    const std::string description_;
    const std::function<void()> on_close_;
};

class data_connection final : public replica_connection {
public:
    using replica_connection::replica_connection;
    int read(std::span<std::byte> buffer, std::uint64_t offset) noexcept override;
    int write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept override;
    int zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept override;
    /// As zero: both leave a hole.
    int trim(std::uint64_t offset, std::uint64_t length, bool fua) noexcept override;
    int flush() noexcept override;

private:
    int extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) noexcept override;
};

class map_connection final : public replica_connection {
public:
    using replica_connection::replica_connection;
    int read(std::span<std::byte> buffer, std::uint64_t offset) noexcept override;
    int write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept override;
    int zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept override;
    int trim(std::uint64_t offset, std::uint64_t length, bool fua) noexcept override;
    int flush() noexcept override;

private:
    int extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) noexcept override;
};

}  // namespace weft::io
