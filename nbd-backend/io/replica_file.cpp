// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/block_sum.hpp"
#include "nbd-backend/io/replica_dir.hpp"

namespace weft::io {

namespace {

/// Where a file system cannot punch holes; static so that no request allocates or puts it on a stack.
constexpr std::size_t zeros_bytes = 256 * kib;
alignas(block_bytes) constexpr std::array<std::byte, zeros_bytes> zeros{};

int write_zeros(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
    while (length > 0) {
        const auto piece = std::min<std::uint64_t>(length, zeros_bytes);
        if (const int problem = write_at(fd, std::span(zeros).first(piece), offset); problem != 0) return problem;
        offset += piece;
        length -= piece;
    }
    return 0;
}

constexpr std::uint64_t round_up(std::uint64_t n) {
    return (n + block_bytes - 1) / block_bytes * block_bytes;
}

/// lseek(SEEK_DATA or SEEK_HOLE); `end` when there is none before it.
int seek(int fd, std::uint64_t from, std::uint64_t end, int whence, std::uint64_t& found) noexcept {
    const off_t at = ::lseek(fd, static_cast<off_t>(from), whence);
    if (at < 0 && errno != ENXIO) return errno;
    found = at < 0 ? end : std::min(static_cast<std::uint64_t>(at), end);
    return 0;
}

result<unique_fd> open_sums(const std::string& path, const core::replica_meta& meta) {
    TRY_ASSIGN(auto fd, open_file(path, O_RDWR));
    struct stat found {};
    if (::fstat(fd.get(), &found) != 0) return errno_error(errno, fmt::format("look at {}", path));
    const auto expected = core::sums_file_bytes(meta);
    if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) != expected)
        return error{errc::corrupt,
                     fmt::format("{} is not a file of {} bytes but has {}", path, expected, found.st_size)};
    return fd;
}

}  // namespace

result<core::replica_meta> read_meta(const unique_fd& meta_file, const std::string& shown) {
    std::array<core::meta_slot, core::meta_slots> slots{};
    std::array<int, core::meta_slots> problems{};
    for (std::size_t i = 0; i < core::meta_slots; ++i)
        problems[i] = read_at(meta_file.get(), slots[i], i * core::meta_slot_bytes);
    // One unreadable sector must not take the replica away: a slot that cannot be read is a bad slot.
    if (problems[0] != 0 && problems[1] != 0) return errno_error(problems[0], fmt::format("read {}", shown));
    auto meta = core::choose_meta(slots[0], slots[1]);
    if (meta.has_error()) return std::move(meta).error().within(shown);
    struct stat found {};
    if (::fstat(meta_file.get(), &found) != 0) return errno_error(errno, fmt::format("look at {}", shown));
    if (static_cast<std::uint64_t>(found.st_size) != core::meta_file_bytes(*meta))
        return error{errc::corrupt,
                     fmt::format("{} has {} bytes instead of {}", shown, found.st_size, core::meta_file_bytes(*meta))};
    return meta;
}

result<replica_file> replica_file::open(const std::string& drive, const replica_id& id) {
    if (!is_uuid(id.str())) return error{errc::invalid_argument, "the replica's id is not a UUID"};
    const std::string path = replica_path(drive, id);
    TRY_ASSIGN(auto meta_file, open_file(path + "/meta", O_RDWR));
    TRY_ASSIGN(auto meta, read_meta(meta_file, path + "/meta"));
    if (meta.replica != id)
        return error{errc::corrupt, fmt::format("{}/meta belongs to replica {}", path, meta.replica.str())};
    TRY_ASSIGN(auto data, open_file(path + "/data", O_RDWR));
    struct stat found {};
    if (::fstat(data.get(), &found) != 0) return errno_error(errno, fmt::format("look at {}/data", path));
    if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) != meta.size_bytes)
        return error{errc::corrupt,
                     fmt::format("{}/data is not a file of {} bytes but has {}", path, meta.size_bytes, found.st_size)};
    unique_fd sums;
    if (meta.keeps_sums()) {
        TRY_ASSIGN(sums, open_sums(path + "/sums", meta));
    }
    return replica_file{std::move(data), std::move(meta_file), std::move(sums),
                        std::move(meta), found.st_ino,         found.st_dev};
}

bool replica_file::is_at(const std::string& drive) const {
    struct stat found {};
    return ::lstat((replica_path(drive, id_) + "/data").c_str(), &found) == 0 && found.st_ino == inode_ &&
           found.st_dev == device_;
}

status replica_file::store(const core::replica_meta& meta) {
    const auto bytes = core::encode_meta(meta);
    const auto offset = core::slot_of(meta.generation) * core::meta_slot_bytes;
    int problem = write_at(meta_file_.get(), bytes, offset);
    if (problem == 0 && ::fdatasync(meta_file_.get()) != 0) problem = errno;
    if (problem != 0) return errno_error(problem, fmt::format("store the meta of replica {}", meta.replica.str()));
    return ok();
}

status replica_file::store_both(core::replica_meta next) {
    // FORMAT.md, "Writing": the slot that is not current first; then its twin, so that one rotten slot loses nothing.
    TRY(store(next));
    WEFT_CRASH_POINT("replica.first-slot-stored");
    ++next.generation;
    TRY(store(next));
    meta_ = std::move(next);
    return ok();
}

status replica_file::raise_epoch(std::uint64_t epoch) {
    WEFT_CRASH_POINT("fence.told");
    TRY(store_both(core::with_epoch(meta_, epoch)));
    WEFT_CRASH_POINT("fence.epoch-stored");
    return ok();
}

status replica_file::store_change_boot_id(const std::string& boot_id) {
    return store_both(core::with_change_boot_id(meta_, boot_id));
}

status replica_file::add_incompat(std::uint64_t features) {
    return store_both(core::with_incompat(meta_, features));
}

int replica_file::read_page(std::uint64_t page, core::bitmap_page& bytes) const noexcept {
    return read_at(meta_file_.get(), bytes, core::bitmap_offset_bytes + page * core::bitmap_page_bytes);
}

int replica_file::write_page(std::uint64_t page, const core::bitmap_page& bytes) const noexcept {
    return write_at(meta_file_.get(), bytes, core::bitmap_offset_bytes + page * core::bitmap_page_bytes);
}

int replica_file::sync_meta() const noexcept {
    return ::fdatasync(meta_file_.get()) == 0 ? 0 : errno;
}

int replica_file::read(std::span<std::byte> buffer, std::uint64_t offset) const noexcept {
    return read_at(data_.get(), buffer, offset);
}

int replica_file::write(std::span<const std::byte> buffer, std::uint64_t offset) const noexcept {
    INVARIANT(offset <= size_bytes_ && buffer.size() <= size_bytes_ - offset, "a write would grow the replica");
    return write_at(data_.get(), buffer, offset);
}

int replica_file::zero(std::uint64_t offset, std::uint64_t length, bool only_if_fast) const noexcept {
    INVARIANT(offset <= size_bytes_ && length <= size_bytes_ - offset, "zeroing outside of the replica");
    if (length == 0) return 0;
    int problem = 0;
    const int mode = FALLOC_FL_KEEP_SIZE | (thick_ ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
    do {
        problem =
            ::fallocate(data_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0 ? 0 : errno;
    } while (problem == EINTR);
    if (problem != EOPNOTSUPP && problem != ENOSYS) return problem;
    return only_if_fast ? ENOTSUP : write_zeros(data_.get(), offset, length);
}

int replica_file::sync() const noexcept {
    return ::fdatasync(data_.get()) == 0 ? 0 : errno;
}

int replica_file::extent_at(std::uint64_t offset, std::uint64_t end, file_extent& found) const noexcept {
    INVARIANT(offset < end && end <= size_bytes_, "extents outside of the replica");
    std::uint64_t data = 0;
    if (const int problem = seek(data_.get(), offset, end, SEEK_DATA, data); problem != 0) return problem;
    // Data begins at a byte; its whole block is data. A hole's end rounds down, a hole that ends in this block is none.
    data = data / block_bytes * block_bytes;
    if (data > offset) {
        found = {offset, data - offset, true};
        return 0;
    }
    std::uint64_t hole = offset;
    while (hole < end) {
        if (const int problem = seek(data_.get(), hole, end, SEEK_HOLE, hole); problem != 0) return problem;
        hole = std::min(round_up(hole), end);
        if (hole == end) break;
        if (const int problem = seek(data_.get(), hole, end, SEEK_DATA, data); problem != 0) return problem;
        if (data / block_bytes * block_bytes > hole) break;  // a hole of at least one whole block
        hole = data;
    }
    // Punched between the two looks: calling one block data that is a hole is always right.
    if (hole == offset) hole = offset + block_bytes;
    found = {offset, hole - offset, false};
    return 0;
}

int replica_file::read_sums(std::span<std::byte> sums, std::uint64_t first_block) const noexcept {
    return read_at(sums_.get(), sums, first_block * core::block_sum_bytes);
}

int replica_file::write_sums(std::span<const std::byte> sums, std::uint64_t first_block) const noexcept {
    INVARIANT(first_block * block_bytes + sums.size() / core::block_sum_bytes * block_bytes <= size_bytes_,
              "sums behind the end");
    return write_at(sums_.get(), sums, first_block * core::block_sum_bytes);
}

int replica_file::zero_sums(std::uint64_t first_block, std::uint64_t blocks) const noexcept {
    INVARIANT((first_block + blocks) * block_bytes <= size_bytes_, "sums behind the end");
    return write_zeros(sums_.get(), first_block * core::block_sum_bytes, blocks * core::block_sum_bytes);
}

int replica_file::sync_sums() const noexcept {
    return ::fdatasync(sums_.get()) == 0 ? 0 : errno;
}

bool replica_file::is_allocated(std::uint64_t offset, std::uint64_t length) const noexcept {
    if (thick_ || length == 0) return true;
    file_extent found;
    return extent_at(offset, offset + length, found) == 0 && !found.hole && found.length == length;
}

}  // namespace weft::io
