// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/block_sums.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>

#include "nbd-backend/core/block_sum.hpp"

namespace weft::io {

namespace {

/// One transfer of sums: those of 4 MiB of data, a page of the file.
constexpr std::size_t batch_blocks = 1024;
using batch = std::array<std::byte, batch_blocks * core::block_sum_bytes>;

/// Calls work(first block, blocks, their bytes) for batches that each lie in one page of sums.
template <typename Work>
int in_batches(std::uint64_t offset, std::uint64_t length, Work work) noexcept {
    const std::uint64_t end = (offset + length) / block_bytes;
    for (std::uint64_t block = offset / block_bytes; block < end;) {
        const auto count = std::min(end, (block / batch_blocks + 1) * batch_blocks) - block;
        if (const int problem = work(block, static_cast<std::size_t>(count)); problem != 0) return problem;
        block += count;
    }
    return 0;
}

}  // namespace

block_sums::block_sums(const replica_file& file, const core::dirty_map& map, const failure_reporter& report,
                       std::chrono::milliseconds budget)
    : file_(file), map_(map), report_(report), budget_(budget), kept_(file.has_sums()) {
    if (!kept_) return;
    unsure_ = std::make_unique<std::atomic<std::uint64_t>[]>((map.regions() + word_bits - 1) / word_bits);
    // Never changed: all holes, and their sums are right. So a replacement that is being filled (born all dirty) need
    // not be read again to become clean.
    if (file.meta().change_boot_id.empty()) return;
    for (std::uint64_t region = 0; region < map.regions();) {
        const bool dirty = map.is_dirty(region);
        const auto end = map.run_end(region, map.regions(), dirty);
        if (dirty) doubt({region, end});
        region = end;
    }
}

void block_sums::doubt(core::region_range range) noexcept {
    if (!kept_) return;
    for (auto region = range.first; region < range.end; ++region)
        unsure_[region / word_bits].fetch_or(std::uint64_t{1} << (region % word_bits));
}

void block_sums::wrote(std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
    if (!kept_) return;
    const int problem = in_batches(offset, bytes.size(), [&](std::uint64_t block, std::size_t count) noexcept {
        batch sums;  // not initialised: only what is filled is written
        for (std::size_t i = 0; i < count; ++i)
            core::store_block_sum(std::span(sums).subspan(i * core::block_sum_bytes),
                                  core::block_sum(bytes.subspan((block + i) * block_bytes - offset, block_bytes)));
        return file_.write_sums(std::span(sums).first(count * core::block_sum_bytes), block);
    });
    if (problem == 0) return;
    doubt(map_.touched_by(offset, bytes.size()));
    tell_bad(offset, errno_error(problem, "its checksums cannot be written").text);
}

void block_sums::zeroed(std::uint64_t offset, std::uint64_t length) noexcept {
    if (!kept_) return;
    const int problem = file_.zero_sums(offset / block_bytes, length / block_bytes);
    if (problem == 0) return;
    doubt(map_.touched_by(offset, length));
    tell_bad(offset, errno_error(problem, "its checksums cannot be written").text);
}

int block_sums::verify(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t& bad) const noexcept {
    bad = none;
    if (!kept_) return 0;
    return in_batches(offset, bytes.size(), [&](std::uint64_t block, std::size_t count) noexcept {
        if (bad != none) return 0;
        batch sums;
        const auto stored = std::span(sums).first(count * core::block_sum_bytes);
        bool have_sums = false;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t at = (block + i) * block_bytes;
            if (!is_sure(at / map_.region_bytes())) continue;
            if (!have_sums)
                if (const int problem = file_.read_sums(stored, block); problem != 0) return problem;
            have_sums = true;
            if (core::load_block_sum(stored.subspan(i * core::block_sum_bytes)) !=
                core::block_sum(bytes.subspan(at - offset, block_bytes))) {
                bad = at;
                return 0;
            }
        }
        return 0;
    });
}

int block_sums::sum_again(std::uint64_t region) noexcept {
    constexpr std::uint64_t piece_bytes = 64 * kib;  // on the stack: nothing may fail for lack of memory here
    std::array<std::byte, piece_bytes> bytes;
    const auto region_end = std::min((region + 1) * map_.region_bytes(), map_.size_bytes());
    file_extent found{region * map_.region_bytes(), 0, false};
    while (found.offset + found.length < region_end) {
        if (const int problem = file_.extent_at(found.offset + found.length, region_end, found); problem != 0)
            return problem;
        if (found.hole) {
            if (const int problem = file_.zero_sums(found.offset / block_bytes, found.length / block_bytes);
                problem != 0)
                return problem;
            continue;
        }
        for (std::uint64_t at = found.offset; at < found.offset + found.length;) {
            const auto piece = std::span(bytes).first(std::min(piece_bytes, found.offset + found.length - at));
            if (const int problem = file_.read(piece, at); problem != 0) return problem;
            std::array<std::byte, piece_bytes / block_bytes * core::block_sum_bytes> sums;
            const auto blocks = piece.size() / block_bytes;
            for (std::size_t i = 0; i < blocks; ++i)
                core::store_block_sum(std::span(sums).subspan(i * core::block_sum_bytes),
                                      core::block_sum(piece.subspan(i * block_bytes, block_bytes)));
            if (const int problem =
                    file_.write_sums(std::span(sums).first(blocks * core::block_sum_bytes), at / block_bytes);
                problem != 0)
                return problem;
            at += piece.size();
        }
    }
    return 0;
}

int block_sums::settle(core::region_range range) noexcept {
    if (!kept_) return 0;
    const auto began = std::chrono::steady_clock::now();
    bool any = false;
    bool summed = false;
    for (auto region = range.first; region < range.end; ++region) {
        if (!map_.is_dirty(region)) continue;
        any = true;
        if (is_sure(region)) continue;
        // At least one region each time, however slow the drive.
        if (summed && std::chrono::steady_clock::now() - began >= budget_) return EIO;
        summed = true;
        const auto visits = map_.visits(region);
        if (const int problem = sum_again(region); problem != 0) {
            tell_bad(region * map_.region_bytes(), errno_error(problem, "its region cannot be summed again").text);
            return EIO;
        }
        // Against the writer's promise somebody changed it, and we may have overwritten a newer sum.
        if (map_.visits(region) != visits) continue;
        unsure_[region / word_bits].fetch_and(~(std::uint64_t{1} << (region % word_bits)));
    }
    return any ? sync() : 0;
}

int block_sums::sync() noexcept {
    const auto asked = syncs_started_.load();
    const std::lock_guard lock(sync_mutex_);
    // A whole sync began after our sums were written, and succeeded (after a failure the number stands still).
    if (syncs_started_.load() > asked) return 0;
    ++syncs_started_;
    const int problem = file_.sync_sums();
    if (problem == 0) return 0;
    --syncs_started_;
    // The kernel has told that pages are lost, not which, and will not tell again: sum everything anew when its turn
    // comes.
    doubt({0, map_.regions()});
    report(fmt::format("replica {}: {}: it is not verified until its regions were cleared again", file_.id().str(),
                       errno_error(problem, "sync its checksums").text));
    return EIO;
}

void block_sums::tell_bad(std::uint64_t offset, std::string_view why) noexcept {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    auto told = told_.load();
    if (told != 0 && now - std::chrono::steady_clock::duration(told) < std::chrono::seconds(1)) return;
    if (!told_.compare_exchange_strong(told, now.count())) return;
    report(fmt::format("replica {}: block at byte {}: {}", file_.id().str(), offset, why));
}

void block_sums::report(std::string_view text) noexcept {
    try {
        report_(std::string(text));
    } catch (const std::exception&) {
        return;  // no memory for the words
    }
}

}  // namespace weft::io
