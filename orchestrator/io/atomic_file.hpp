// SPDX-License-Identifier: Apache-2.0
// Small files that are either old or new, never half: written beside, synced, renamed, directory synced.
//
// Laws: after write_file_atomically returned, the content survives a crash of the kernel; killed anywhere before, a
// reader sees the old content or none. Left-over temporary names (".<name>.<random>.tmp") are never read.
// Refuses to follow a symlink as the last component. Blocking; any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/result.hpp"

namespace weft {

/// A file descriptor that closes itself. Move-only.
class unique_fd {
public:
    unique_fd() = default;
    explicit unique_fd(int fd) noexcept : fd_(fd) {}
    unique_fd(unique_fd&& other) noexcept : fd_(other.release()) {}
    unique_fd& operator=(unique_fd&& other) noexcept;
    ~unique_fd() { reset(); }

    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
    [[nodiscard]] int release() noexcept;
    void reset() noexcept;

private:
    int fd_ = -1;
};

/// Replaces the content of `path`. The directory must exist. Errors: no_space, io_failed.
status write_file_atomically(const std::filesystem::path& path, std::string_view content, mode_t mode = 0600);

/// The whole content, nullopt if there is no such file. Errors: corrupt when larger than `max_bytes`; io_failed.
result<std::optional<std::string>> read_file(const std::filesystem::path& path, std::size_t max_bytes = 1024 * 1024);

/// What an open file or pipe has from here to its end; `name` is for errors. Errors: as read_file.
result<std::string> read_to_end(int fd, const std::filesystem::path& name, std::size_t max_bytes = 1024 * 1024);
/// All of it, however many calls that takes. Errors: no_space, io_failed.
status write_all(int fd, std::string_view content, const std::filesystem::path& name);

/// The last `max_bytes` of what was written to `path` after `from` bytes: a log's tail for an error text. Empty on any
/// error.
std::string read_tail(const std::filesystem::path& path, std::uintmax_t from = 0, std::size_t max_bytes = 2000);

/// Like mkdir -p; directories that it creates get `mode`. Errors: io_failed and errno's.
status make_directories(const std::filesystem::path& path, mode_t mode = 0700);

/// Removes a file; no error if it is not there.
status remove_file(const std::filesystem::path& path);

/// Removes a directory and the plain files, sockets and symlinks in it, and such subdirectories, but never crosses into
/// another file system (a mount point inside is an error: busy). No error if it is not there.
status remove_directory_tree(const std::filesystem::path& path);

/// The names of the subdirectories that are UUIDs, sorted; empty if `path` does not exist.
result<std::vector<std::string>> list_uuid_directories(const std::filesystem::path& path);

}  // namespace weft
