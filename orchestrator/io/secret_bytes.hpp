// SPDX-License-Identifier: Apache-2.0
// A key in memory: one page of its own that is not swapped out (where the limit on locked memory allows), not in a core
// dump, not in a forked child, and wiped before it is given back. Move-only, so that there is one copy.
//
// It is filled from a file descriptor, so that no other buffer of the process ever holds the key.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include "nbd-backend/base/result.hpp"

namespace weft {

class secret_bytes {
public:
    static constexpr std::size_t capacity = 4096;  // bytes: a page

    /// Errors: io_failed (no memory).
    static result<secret_bytes> make();
    secret_bytes(secret_bytes&& other) noexcept
        : page_(std::exchange(other.page_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    secret_bytes& operator=(secret_bytes&& other) noexcept;
    secret_bytes(const secret_bytes&) = delete;
    secret_bytes& operator=(const secret_bytes&) = delete;
    ~secret_bytes();

    /// Reads once; false at the end of the file. Errors: invalid_argument when there is more than `capacity`;
    /// io_failed.
    result<bool> read_some(int fd);
    /// Reads to the end. Errors: as read_some.
    status read_all(int fd);
    /// Not a copy: valid as long as this is.
    [[nodiscard]] std::string_view view() const { return {page_, size_}; }

private:
    explicit secret_bytes(char* page) : page_(page) {}

    char* page_;
    std::size_t size_ = 0;
};

}  // namespace weft
