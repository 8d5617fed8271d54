// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/unix_listen.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace weft {

namespace {

class owned_fd {
public:
    explicit owned_fd(int fd) : fd_(fd) {}
    ~owned_fd() {
        if (fd_ >= 0) ::close(fd_);
    }
    owned_fd(const owned_fd&) = delete;
    owned_fd& operator=(const owned_fd&) = delete;
    [[nodiscard]] int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }

private:
    int fd_;
};

result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos)
        return error{errc::invalid_argument, fmt::format("socket path '{}' must be absolute", path)};
    if (path.size() >= sizeof address.sun_path)
        return error{errc::invalid_argument,
                     fmt::format("socket path '{}' has {} bytes; the kernel takes at most {}: choose a shorter folder",
                                 path, path.size(), sizeof address.sun_path - 1)};
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

const sockaddr* as_sockaddr(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

/// The parent folder, opened and locked exclusively until the descriptor is closed.
result<int> lock_folder(const std::string& path) {
    const std::filesystem::path parent = std::filesystem::path(path).parent_path();
    std::error_code failed;
    std::filesystem::create_directories(parent, failed);
    if (failed) return errno_error(failed.value(), fmt::format("create folder '{}'", parent.string()));
    owned_fd folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.get() < 0) return errno_error(errno, fmt::format("open folder '{}'", parent.string()));
    while (::flock(folder.get(), LOCK_EX) != 0)
        if (errno != EINTR) return errno_error(errno, fmt::format("lock folder '{}'", parent.string()));
    return folder.release();
}

/// Removes the file at the path if it is a socket on which nobody answers. Nothing there: fine.
status remove_stale(const std::string& path, const sockaddr_un& address, const std::string& owner_name) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) != 0) {
        if (errno == ENOENT) return ok();
        return errno_error(errno, fmt::format("look at '{}'", path));
    }
    if (!S_ISSOCK(found.st_mode))
        return error{errc::already_exists,
                     fmt::format("'{}' exists and is not a socket: move it away or configure another path", path)};
    owned_fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (probe.get() < 0) return errno_error(errno, "create a unix socket");
    // EAGAIN: its backlog is full, so somebody holds it open. Only ECONNREFUSED proves that nobody listens.
    if (::connect(probe.get(), as_sockaddr(address), sizeof address) == 0 || errno == EAGAIN)
        return error{
            errc::busy,
            fmt::format("another {} is listening on '{}': stop it first, or configure another path", owner_name, path)};
    if (errno == ENOENT) return ok();
    if (errno != ECONNREFUSED) return errno_error(errno, fmt::format("probe socket '{}'", path));
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return errno_error(errno, fmt::format("remove stale socket '{}'", path));
    return ok();
}

std::optional<gid_t> find_group(const std::string& name) {
    group entry{};
    group* found = nullptr;
    std::vector<char> buffer(4096);
    for (;;) {
        const int failed = ::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
        if (failed != ERANGE) break;
        buffer.resize(buffer.size() * 2);
    }
    return found == nullptr ? std::nullopt : std::optional<gid_t>(found->gr_gid);
}

}  // namespace

result<listening_socket> listen_unix(const std::string& path, mode_t mode, const std::string& group,
                                     const std::string& owner_name) {
    TRY_ASSIGN(const sockaddr_un address, address_of(path));
    TRY_ASSIGN(const int locked, lock_folder(path));
    const owned_fd folder(locked);
    TRY(remove_stale(path, address, owner_name));

    owned_fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (listener.get() < 0) return errno_error(errno, "create a unix socket");
    if (::bind(listener.get(), as_sockaddr(address), sizeof address) != 0)
        return errno_error(errno, fmt::format("bind socket '{}'", path));
    listening_socket made{-1, 0, 0};
    struct stat identity {};
    int failed = ::lstat(path.c_str(), &identity) != 0 ? errno : 0;
    made.device = identity.st_dev;
    made.inode = identity.st_ino;
    if (failed == 0 && !group.empty())
        if (const auto gid = find_group(group); gid && ::lchown(path.c_str(), static_cast<uid_t>(-1), *gid) != 0)
            failed = errno;
    if (failed == 0 && ::chmod(path.c_str(), mode) != 0) failed = errno;
    if (failed == 0 && ::listen(listener.get(), SOMAXCONN) != 0) failed = errno;
    if (failed != 0) {
        ::unlink(path.c_str());  // ours for sure: the folder is still locked
        return errno_error(failed, fmt::format("prepare socket '{}'", path));
    }
    made.fd = listener.release();
    return made;
}

void unlink_if_ours(const std::string& path, const listening_socket& ours) noexcept {
    try {
        auto locked = lock_folder(path);
        if (locked.has_error()) return;
        const owned_fd folder(*locked);
        struct stat found {};
        if (::lstat(path.c_str(), &found) == 0 && found.st_dev == ours.device && found.st_ino == ours.inode)
            ::unlink(path.c_str());
    } catch (const std::exception&) {
        return;  // no memory for the path: a stale socket file stays
    }
}

result<int> connect_unix(const std::string& path, int timeout_ms) {
    TRY_ASSIGN(const sockaddr_un address, address_of(path));
    owned_fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (client.get() < 0) return errno_error(errno, "create a unix socket");
    timeval patience{};
    patience.tv_sec = timeout_ms / 1000;
    patience.tv_usec = (timeout_ms % 1000) * 1000;
    if (::setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0)
        return errno_error(errno, "set a time-out on a unix socket");
    if (::connect(client.get(), as_sockaddr(address), sizeof address) == 0) return client.release();
    const int failed = errno;
    std::string why = std::generic_category().message(failed);
    if (failed == ENOENT) why = "no such socket; is weftd running?";
    if (failed == ECONNREFUSED) why = "nobody listens there; weftd was stopped or killed";
    if (failed == EACCES || failed == EPERM) why = "permission denied; be root or a member of group weft";
    if (failed == EAGAIN) why = "it does not accept connections; weftd is overloaded or stopped";
    return error{errc::unavailable, failed, fmt::format("weftd cannot be reached on '{}': {}", path, why)};
}

}  // namespace weft
