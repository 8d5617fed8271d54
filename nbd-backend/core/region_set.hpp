// SPDX-License-Identifier: Apache-2.0
// A set of equal-sized regions of an extent, by index. Pure; at most one bit per region, counted.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace weft::core {

class region_set {
public:
    static constexpr std::uint64_t none = ~std::uint64_t{0};

    region_set() = default;
    explicit region_set(std::uint64_t regions) : words_((regions + 63) / 64), regions_(regions) {}

    [[nodiscard]] std::uint64_t size() const noexcept { return regions_; }
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] bool test(std::uint64_t i) const noexcept { return (words_[i / 64] >> (i % 64) & 1) != 0; }

    void set(std::uint64_t i) noexcept {
        if (!test(i)) ++count_;
        words_[i / 64] |= std::uint64_t{1} << (i % 64);
    }
    void clear(std::uint64_t i) noexcept {
        if (test(i)) --count_;
        words_[i / 64] &= ~(std::uint64_t{1} << (i % 64));
    }
    void set(std::uint64_t first, std::uint64_t last) noexcept {
        for (std::uint64_t i = first; i <= last; ++i) set(i);
    }
    void set_all() noexcept {
        for (std::uint64_t i = 0; i < regions_; ++i) set(i);
    }
    void clear_all() noexcept {
        std::fill(words_.begin(), words_.end(), 0);
        count_ = 0;
    }
    /// Union. Precondition: of the same size.
    void add(const region_set& other) noexcept {
        count_ = 0;
        for (std::size_t i = 0; i < words_.size(); ++i) {
            words_[i] |= other.words_[i];
            count_ += static_cast<std::uint64_t>(std::popcount(words_[i]));
        }
    }

    /// The first member >= from, or none.
    [[nodiscard]] std::uint64_t next(std::uint64_t from) const noexcept {
        if (from >= regions_) return none;
        std::uint64_t word = from / 64;
        std::uint64_t bits = words_[word] & (~std::uint64_t{0} << (from % 64));
        while (bits == 0) {
            if (++word == words_.size()) return none;
            bits = words_[word];
        }
        return word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
    }
    /// Is any of [first, last] a member?
    [[nodiscard]] bool any(std::uint64_t first, std::uint64_t last) const noexcept { return next(first) <= last; }

private:
    std::vector<std::uint64_t> words_;
    std::uint64_t regions_ = 0;
    std::uint64_t count_ = 0;
};

}  // namespace weft::core
