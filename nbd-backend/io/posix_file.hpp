// SPDX-License-Identifier: Apache-2.0
// The few things about files that POSIX leaves to everybody: whole reads and writes, durable directories, safe removal.
//
// Every descriptor is close-on-exec from birth. Interrupted and short transfers are carried on. Nothing follows a
// symbolic link in the last component. Blocking; any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "nbd-backend/base/result.hpp"

namespace weft::io {

/// A file descriptor that closes itself. Move-only.
class unique_fd {
public:
    unique_fd() = default;
    explicit unique_fd(int fd) noexcept : fd_(fd) {}
    unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~unique_fd();

    [[nodiscard]] int get() const noexcept { return fd_; }

private:
    int fd_ = -1;
};

/// open(2) with O_CLOEXEC and O_NOFOLLOW; the error names the path. Errors: errno's (see errno_error).
result<unique_fd> open_file(const std::string& path, int flags, mode_t mode = 0600);
/// A directory, for openat and fsync; may be reached through a symbolic link.
result<unique_fd> open_directory(const std::string& path);

/// The hot path: 0 or an errno, no allocation. A read across the end of the file is EIO.
int read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) noexcept;
int write_at(int fd, std::span<const std::byte> buffer, std::uint64_t offset) noexcept;

/// fsync of a directory: its entries are durable.
status sync_directory(const std::string& path);
/// mkdir, mode 0700; fine if it is a directory already.
status make_directory(const std::string& path);
/// Removes a directory tree that holds plain files and directories; fine if there is none. Symbolic links are removed,
/// never followed.
status remove_tree(const std::string& path);
/// True if there is anything of this name. Errors: io_failed.
result<bool> exists(const std::string& path);

/// At most `bytes_max`. Errors: errno's, corrupt when it is larger.
result<std::string> read_small_file(const std::string& path, std::size_t bytes_max);

}  // namespace weft::io
