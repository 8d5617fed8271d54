// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/atomic_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "nbd-backend/base/ids.hpp"

namespace weft {

namespace fs = std::filesystem;

unique_fd& unique_fd::operator=(unique_fd&& other) noexcept {
    if (this != &other) {
        reset();
        fd_ = other.release();
    }
    return *this;
}

int unique_fd::release() noexcept {
    const int fd = fd_;
    fd_ = -1;
    return fd;
}

void unique_fd::reset() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

status write_all(int fd, std::string_view content, const fs::path& name) {
    while (!content.empty()) {
        const ssize_t n = ::write(fd, content.data(), content.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error(errno, fmt::format("write {}", name.string()));
        content.remove_prefix(static_cast<std::size_t>(n));
    }
    return ok();
}

namespace {

status sync_directory(const fs::path& directory) {
    const unique_fd fd{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!fd || ::fsync(fd.get()) != 0) return errno_error(errno, fmt::format("sync directory {}", directory.string()));
    return ok();
}

status fill_temporary(const fs::path& temporary, std::string_view content, mode_t mode) {
    const unique_fd fd{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)};
    if (!fd) return errno_error(errno, fmt::format("create {}", temporary.string()));
    if (::fchmod(fd.get(), mode) != 0) return errno_error(errno, fmt::format("set mode of {}", temporary.string()));
    TRY(write_all(fd.get(), content, temporary));
    if (::fsync(fd.get()) != 0) return errno_error(errno, fmt::format("sync {}", temporary.string()));
    return ok();
}

}  // namespace

status write_file_atomically(const fs::path& path, std::string_view content, mode_t mode) {
    const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path{"."};
    const fs::path temporary = directory / fmt::format(".{}.{}.tmp", path.filename().string(), make_uuid());
    if (auto filled = fill_temporary(temporary, content, mode); filled.has_error()) {
        ::unlink(temporary.c_str());
        return filled;
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        const int failure = errno;
        ::unlink(temporary.c_str());
        return errno_error(failure, fmt::format("rename to {}", path.string()));
    }
    return sync_directory(directory);
}

result<std::string> read_to_end(int fd, const fs::path& name, std::size_t max_bytes) {
    std::string content;
    std::array<char, 16384> piece;
    for (;;) {
        const ssize_t n = ::read(fd, piece.data(), piece.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error(errno, fmt::format("read {}", name.string()));
        if (n == 0) return content;
        content.append(piece.data(), static_cast<std::size_t>(n));
        if (content.size() > max_bytes)
            return error{errc::corrupt, fmt::format("{} is larger than {} bytes", name.string(), max_bytes)};
    }
}

result<std::optional<std::string>> read_file(const fs::path& path, std::size_t max_bytes) {
    const unique_fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
    if (!fd) {
        if (errno == ENOENT || errno == ENOTDIR) return std::optional<std::string>{};
        return errno_error(errno, fmt::format("open {}", path.string()));
    }
    TRY_ASSIGN(auto content, read_to_end(fd.get(), path, max_bytes));
    return std::optional<std::string>{std::move(content)};
}

std::string read_tail(const fs::path& path, std::uintmax_t from, std::size_t max_bytes) {
    const unique_fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0) return {};
    const auto size = static_cast<std::uintmax_t>(st.st_size);
    if (size <= from) return {};
    const auto length = std::min<std::uintmax_t>(size - from, max_bytes);
    std::string tail(static_cast<std::size_t>(length), '\0');
    const ssize_t n = ::pread(fd.get(), tail.data(), tail.size(), static_cast<off_t>(size - length));
    tail.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
    while (!tail.empty() && (tail.back() == '\n' || tail.back() == ' ')) tail.pop_back();
    return tail;
}

status make_directories(const fs::path& path, mode_t mode) {
    fs::path so_far;
    for (const auto& part : path) {
        so_far /= part;
        if (so_far.empty() || part == "/" || part.empty()) continue;
        if (::mkdir(so_far.c_str(), mode) == 0 || errno == EEXIST) continue;
        return errno_error(errno, fmt::format("create directory {}", so_far.string()));
    }
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0) return errno_error(errno, fmt::format("look at {}", path.string()));
    if (!S_ISDIR(st.st_mode)) return errno_error(ENOTDIR, fmt::format("create directory {}", path.string()));
    return ok();
}

status remove_file(const fs::path& path) {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT || errno == ENOTDIR) return ok();
    return errno_error(errno, fmt::format("remove {}", path.string()));
}

namespace {

using directory_stream = std::unique_ptr<DIR, int (*)(DIR*)>;

/// Empties the directory open as `fd` (consumed). `device`: where the tree began.
status empty_directory(unique_fd fd, dev_t device, const fs::path& shown) {
    const directory_stream stream{::fdopendir(fd.get()), ::closedir};
    if (!stream) return errno_error(errno, fmt::format("read directory {}", shown.string()));
    const int directory = fd.release();  // now the stream's
    while (errno = 0, true) {
        const dirent* entry = ::readdir(stream.get());
        if (entry == nullptr) break;
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        struct stat st {};
        if (::fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno == ENOENT) continue;
            return errno_error(errno, fmt::format("look at {}", (shown / name).string()));
        }
        if (st.st_dev != device)
            return error{errc::busy, fmt::format("{} is a mount point; unmount it first", (shown / name).string())};
        const bool is_directory = S_ISDIR(st.st_mode);
        if (is_directory) {
            unique_fd inner{::openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
            if (!inner) return errno_error(errno, fmt::format("open {}", (shown / name).string()));
            TRY(empty_directory(std::move(inner), device, shown / name));
        }
        if (::unlinkat(directory, name.c_str(), is_directory ? AT_REMOVEDIR : 0) != 0 && errno != ENOENT)
            return errno_error(errno, fmt::format("remove {}", (shown / name).string()));
    }
    if (errno != 0) return errno_error(errno, fmt::format("read directory {}", shown.string()));
    return ok();
}

}  // namespace

status remove_directory_tree(const fs::path& path) {
    unique_fd fd{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
    if (!fd) {
        if (errno == ENOENT) return ok();
        return errno_error(errno, fmt::format("open {}", path.string()));
    }
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return errno_error(errno, fmt::format("look at {}", path.string()));
    TRY(empty_directory(std::move(fd), st.st_dev, path));
    if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return ok();
    return errno_error(errno, fmt::format("remove {}", path.string()));
}

result<std::vector<std::string>> list_uuid_directories(const fs::path& path) {
    const directory_stream stream{::opendir(path.c_str()), ::closedir};
    std::vector<std::string> names;
    if (!stream) {
        if (errno == ENOENT) return names;
        return errno_error(errno, fmt::format("read directory {}", path.string()));
    }
    while (errno = 0, true) {
        const dirent* entry = ::readdir(stream.get());
        if (entry == nullptr) break;
        struct stat st {};
        if (is_uuid(entry->d_name) && ::fstatat(::dirfd(stream.get()), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(st.st_mode))
            names.emplace_back(entry->d_name);
    }
    if (errno != 0) return errno_error(errno, fmt::format("read directory {}", path.string()));
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace weft
