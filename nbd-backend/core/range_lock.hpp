// SPDX-License-Identifier: Apache-2.0
// Who may touch which bytes of an extent now (R9, R10): shared for reads, exclusive for changes and copies.
//
// Pure and fair: a claim waits for every conflicting claim that came before it, whether that one holds or waits itself,
// so no stream of requests can starve another. Two claims conflict when they overlap and one of them is exclusive.
//
// Claims are registered in the buckets (256 KiB of the extent, hashed) that they cover, so the cost of a claim is the
// number of claims near it, not the number of claims in flight. Slots and vectors are reused: no allocation once warm.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace weft::core {

class range_lock {
public:
    enum class mode : std::uint8_t { shared, exclusive };
    using ticket = std::uint32_t;

    range_lock();

    struct claim_result {
        ticket id = 0;
        bool granted = false;  // false: `owner` comes out of a later release()
    };
    /// Claims [offset, offset + length), length > 0, for `owner` (any number that means something to the caller).
    claim_result claim(std::uint64_t offset, std::uint64_t length, mode how, std::uint32_t owner);

    /// Gives a claim up, held or still waiting; appends the owners of the claims that are granted by this.
    void release(ticket id, std::vector<std::uint32_t>& granted);

    [[nodiscard]] std::uint32_t claims() const noexcept { return in_use_; }

private:
    static constexpr unsigned bucket_shift = 18;
    static constexpr std::uint64_t bucket_count = 1024;

    struct entry {
        std::uint64_t offset = 0;
        std::uint64_t length = 0;
        std::uint64_t seen_by = 0;  // serial of the claim that counted this entry last: counts it once, not per bucket
        std::uint32_t owner = 0;
        std::uint32_t blockers = 0;
        mode how = mode::shared;
        bool used = false;
        std::vector<ticket> waiters;
    };

    [[nodiscard]] bool conflicts(const entry& a, const entry& b) const noexcept;
    template <typename Visit>
    void each_bucket(const entry& e, Visit visit);

    std::vector<entry> entries_;
    std::vector<ticket> free_;
    std::array<std::vector<ticket>, bucket_count> buckets_;
    std::uint64_t serial_ = 0;
    std::uint32_t in_use_ = 0;
};

}  // namespace weft::core
