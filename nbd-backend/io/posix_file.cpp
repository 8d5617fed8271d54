// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/posix_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace weft::io {

unique_fd::~unique_fd() {
    if (fd_ >= 0) (void)::close(fd_);
}

result<unique_fd> open_file(const std::string& path, int flags, mode_t mode) {
    unique_fd fd{::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, mode)};
    if (fd.get() < 0) return errno_error(errno, fmt::format("open {}", path));
    return fd;
}

result<unique_fd> open_directory(const std::string& path) {
    unique_fd fd{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (fd.get() < 0) return errno_error(errno, fmt::format("open directory {}", path));
    return fd;
}

int read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) noexcept {
    while (!buffer.empty()) {
        const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return EIO;  // somebody cut the file
        buffer = buffer.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return 0;
}

int write_at(int fd, std::span<const std::byte> buffer, std::uint64_t offset) noexcept {
    while (!buffer.empty()) {
        const ssize_t put = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        if (put == 0) return EIO;
        buffer = buffer.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return 0;
}

status sync_directory(const std::string& path) {
    TRY_ASSIGN(const auto fd, open_directory(path));
    if (::fsync(fd.get()) != 0) return errno_error(errno, fmt::format("sync directory {}", path));
    return ok();
}

status make_directory(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) == 0) return ok();
    const int problem = errno;
    struct stat found {};
    if (problem == EEXIST && ::stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode)) return ok();
    return errno_error(problem, fmt::format("create directory {}", path));
}

status remove_tree(const std::string& path) {
    std::error_code problem;
    std::filesystem::remove_all(path, problem);
    if (problem) return errno_error(problem.value(), fmt::format("remove {}", path));
    return ok();
}

result<bool> exists(const std::string& path) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) == 0) return true;
    if (errno == ENOENT) return false;
    return errno_error(errno, fmt::format("look at {}", path));
}

result<std::string> read_small_file(const std::string& path, std::size_t bytes_max) {
    TRY_ASSIGN(const auto fd, open_file(path, O_RDONLY));
    std::string text(bytes_max + 1, '\0');
    std::size_t filled = 0;
    while (filled < text.size()) {
        const ssize_t got = ::read(fd.get(), text.data() + filled, text.size() - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno_error(errno, fmt::format("read {}", path));
        if (got == 0) break;
        filled += static_cast<std::size_t>(got);
    }
    if (filled > bytes_max) return error{errc::corrupt, fmt::format("{} is larger than {} bytes", path, bytes_max)};
    text.resize(filled);
    return text;
}

}  // namespace weft::io
