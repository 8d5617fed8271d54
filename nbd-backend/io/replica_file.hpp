// SPDX-License-Identifier: Apache-2.0
// The files of an open replica: its data, its meta, and its checksums if it keeps them.
//
// Laws: the data file never grows or shrinks (a request outside is refused); zeroing and trimming both leave holes (on
// a thick replica: space that is allocated and reads as zero), so that replicas stay byte-equal; a call that changes
// the slots of meta returns success only when both are on stable storage, and must not be repeated or followed by
// another one after it failed (what the slots hold then is unknown). Thread rule: the data calls from any thread at the
// same time, without a lock and without allocation; the calls for slots from one thread at a time, those for pages of
// the bitmap from one thread at a time. All calls block. The caller remembers a failed sync: this class does not.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/replica_meta.hpp"
#include "nbd-backend/io/posix_file.hpp"

namespace weft::io {

/// A piece of the data file, whole blocks.
struct file_extent {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool hole = false;
};

class replica_file {
public:
    /// Errors: not_found; corrupt (meta, or the size of data); unsupported; io_failed.
    static result<replica_file> open(const std::string& drive, const replica_id& id);

    /// As last stored; belongs to the thread that may change it.
    [[nodiscard]] const core::replica_meta& meta() const noexcept { return meta_; }
    [[nodiscard]] const replica_id& id() const noexcept { return id_; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
    [[nodiscard]] bool is_thick() const noexcept { return thick_; }

    /// True if <drive>/replicas/<id>/data still is the file that is open here.
    [[nodiscard]] bool is_at(const std::string& drive) const;

    /// Makes a higher epoch durable. After an error the stored epoch is the old or the new one. Errors: io_failed.
    status raise_epoch(std::uint64_t epoch);
    /// Makes durable that changes are admitted under this boot id from now on. After an error the stored one is the old
    /// or the new one. Errors: io_failed.
    status store_change_boot_id(const std::string& boot_id);
    /// Makes durable that the replica has these incompatible features as well. As above. Errors: io_failed.
    status add_incompat(std::uint64_t features);

    // The bitmap: 0 or an errno. Precondition: page < core::bitmap_page_count.
    int read_page(std::uint64_t page, core::bitmap_page& bytes) const noexcept;
    /// Without a sync.
    int write_page(std::uint64_t page, const core::bitmap_page& bytes) const noexcept;
    /// Makes written pages durable (and the slots, which are already).
    int sync_meta() const noexcept;

    // Data: 0 or an errno. Precondition: the range lies inside.
    int read(std::span<std::byte> buffer, std::uint64_t offset) const noexcept;
    int write(std::span<const std::byte> buffer, std::uint64_t offset) const noexcept;
    /// Makes a hole, without giving space back on a thick replica. `only_if_fast`: ENOTSUP rather than writing zeros on
    /// a file system that cannot do that.
    int zero(std::uint64_t offset, std::uint64_t length, bool only_if_fast) const noexcept;
    int sync() const noexcept;
    /// The extent that begins at `offset`, cut at `end`: data or hole in whole blocks (a block that is partly data is
    /// data). Precondition: offset < end <= size, both multiples of block_bytes.
    int extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) const noexcept;
    /// Can this range be written without new space? False when in doubt.
    [[nodiscard]] bool is_allocated(std::uint64_t offset, std::uint64_t length) const noexcept;

    // The sums of blocks, one after the other; 0 or an errno. Precondition: has_sums, the blocks lie inside.
    [[nodiscard]] bool has_sums() const noexcept { return sums_.get() >= 0; }
    int read_sums(std::span<std::byte> sums, std::uint64_t first_block) const noexcept;
    int write_sums(std::span<const std::byte> sums, std::uint64_t first_block) const noexcept;
    int zero_sums(std::uint64_t first_block, std::uint64_t blocks) const noexcept;
    int sync_sums() const noexcept;

private:
    replica_file(unique_fd data, unique_fd meta_file, unique_fd sums, core::replica_meta meta, ino_t inode,
                 dev_t device)
        : data_(std::move(data)),
          meta_file_(std::move(meta_file)),
          sums_(std::move(sums)),
          meta_(std::move(meta)),
          id_(meta_.replica),
          size_bytes_(meta_.size_bytes),
          thick_(meta_.is_thick()),
          inode_(inode),
          device_(device) {}
    status store(const core::replica_meta& meta);
    status store_both(core::replica_meta next);

    unique_fd data_;
    unique_fd meta_file_;
    unique_fd sums_;
    core::replica_meta meta_;
    replica_id id_;  // this and the rest never change
    std::uint64_t size_bytes_;
    bool thick_;
    ino_t inode_;
    dev_t device_;
};

/// Reads and checks the meta file of a replica directory. Errors: as replica_file::open.
result<core::replica_meta> read_meta(const unique_fd& meta_file, const std::string& shown);

}  // namespace weft::io
