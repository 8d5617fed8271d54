// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/loop_device.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>

#include "orchestrator/io/process.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr std::uint32_t sector_bytes = 4096;  // the volume's block size: no read-modify-write below the file system
constexpr int attach_attempts = 64;           // races with other users of /dev/loop-control, each won by somebody
constexpr std::string_view deleted_mark = " (deleted)";

std::string trimmed(std::string text) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

/// nullopt when the attribute is not there: the device is not configured (or just being taken down).
result<std::optional<std::string>> loop_attribute(int number, std::string_view name) {
    auto text = read_file(fmt::format("/sys/block/loop{}/loop/{}", number, name), 8192);
    if (text.has_error()) {
        const int cause = text.error().os_errno;
        if (cause == ENXIO || cause == ENODEV) return std::optional<std::string>{};
        return std::move(text).error();
    }
    if (!*text) return std::optional<std::string>{};
    return std::optional<std::string>{trimmed(std::move(**text))};
}

result<device_number> numbers_of(int number) {
    const auto path = fmt::format("/sys/block/loop{}/dev", number);
    TRY_ASSIGN(const auto text, read_file(path, 4096));
    device_number numbers;
    if (text) {
        const char* const end = text->data() + text->size();
        const auto [colon, failure] = std::from_chars(text->data(), end, numbers.major);
        if (failure == std::errc{} && colon != end && *colon == ':' &&
            std::from_chars(colon + 1, end, numbers.minor).ec == std::errc{})
            return numbers;
    }
    return error{errc::io_failed, fmt::format("{} does not tell a device number", path)};
}

result<std::optional<loop_info>> read_loop(int number) {
    TRY_ASSIGN(auto backing, loop_attribute(number, "backing_file"));
    if (!backing || backing->empty()) return std::optional<loop_info>{};
    if (backing->ends_with(deleted_mark)) backing->resize(backing->size() - deleted_mark.size());
    TRY_ASSIGN(const auto direct, loop_attribute(number, "dio"));
    TRY_ASSIGN(const auto numbers, numbers_of(number));
    loop_info info;
    info.number = number;
    info.device = fmt::format("/dev/loop{}", number);
    info.numbers = numbers;
    info.backing_file = std::move(*backing);
    info.direct_io = direct.value_or("0") == "1";
    return std::optional<loop_info>{std::move(info)};
}

/// In a container /dev may hold only the nodes that existed when it was made.
status ensure_node(const loop_info& loop) {
    struct stat st {};
    const dev_t wanted = ::makedev(loop.numbers.major, loop.numbers.minor);
    if (::stat(loop.device.c_str(), &st) == 0) {
        if (S_ISBLK(st.st_mode) && st.st_rdev == wanted) return ok();
        return error{errc::io_failed,
                     fmt::format("{} exists but is not loop device number {}; remove it", loop.device, loop.number)};
    }
    if (::mknod(loop.device.c_str(), S_IFBLK | 0600, wanted) == 0 || errno == EEXIST) return ok();
    return errno_error(errno, fmt::format("create device node {}", loop.device));
}

/// Success: configured. busy: somebody else took the number; try another.
status configure(int device_fd, int backing_fd, bool direct) {
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing_fd);
    config.block_size = sector_bytes;
    config.info.lo_flags = direct ? LO_FLAGS_DIRECT_IO : 0;
    if (::ioctl(device_fd, LOOP_CONFIGURE, &config) == 0) return ok();
    return errno_error(errno, "configure a loop device");
}

result<std::optional<loop_info>> try_attach(int control, int backing_fd, const fs::path& backing) {
    const int number = ::ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) return errno_error(errno, "find a free loop device");
    loop_info info;
    info.number = number;
    info.device = fmt::format("/dev/loop{}", number);
    info.backing_file = backing.string();
    TRY_ASSIGN(info.numbers, numbers_of(number));
    TRY(ensure_node(info));
    const unique_fd device{::open(info.device.c_str(), O_RDWR | O_CLOEXEC)};
    if (!device) {
        if (errno == ENXIO || errno == EBUSY) return std::optional<loop_info>{};
        return errno_error(errno, fmt::format("open {}", info.device));
    }
    auto configured = configure(device.get(), backing_fd, true);
    if (configured.has_error() && configured.error().os_errno == EINVAL)
        configured = configure(device.get(), backing_fd, false);  // this file cannot do direct I/O
    if (configured.has_error()) {
        if (configured.error().os_errno == EBUSY) return std::optional<loop_info>{};
        return configured.error().within(fmt::format("attach {}", backing.string()));
    }
    TRY_ASSIGN(const auto direct, loop_attribute(number, "dio"));
    info.direct_io = direct.value_or("0") == "1";
    return std::optional<loop_info>{std::move(info)};
}

int call_clear(int fd, const void*) {
    const int outcome = ::ioctl(fd, LOOP_CLR_FD) == 0 || errno == ENXIO ? 0 : errno;
    ::close(
        fd);  // here, not at exit: since Linux 6.10 the last close does the work, and its errors and time belong here
    return outcome;
}

}  // namespace

result<std::vector<loop_info>> list_loops() {
    const std::unique_ptr<DIR, int (*)(DIR*)> blocks{::opendir("/sys/block"), ::closedir};
    if (!blocks) return errno_error(errno, "read /sys/block");
    std::vector<loop_info> loops;
    while (const dirent* entry = ::readdir(blocks.get())) {
        const std::string_view name = entry->d_name;
        if (!name.starts_with("loop")) continue;
        int number = -1;
        const auto [end, failure] = std::from_chars(name.data() + 4, name.data() + name.size(), number);
        if (failure != std::errc{} || end != name.data() + name.size()) continue;
        TRY_ASSIGN(auto loop, read_loop(number));
        if (loop) loops.push_back(std::move(*loop));
    }
    std::sort(loops.begin(), loops.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
    return loops;
}

result<std::vector<loop_info>> find_loops(const fs::path& backing_file) {
    TRY_ASSIGN(auto loops, list_loops());
    const std::string detached = "/" + backing_file.filename().string();
    std::erase_if(loops, [&](const loop_info& loop) {
        return loop.backing_file != backing_file.string() && loop.backing_file != detached;
    });
    return loops;
}

result<loop_info> attach_loop(const fs::path& backing_file) {
    const unique_fd control{::open("/dev/loop-control", O_RDWR | O_CLOEXEC)};
    if (!control) return errno_error(errno, "open /dev/loop-control (is the loop module loaded?)");
    const unique_fd backing{::open(backing_file.c_str(), O_RDWR | O_CLOEXEC)};
    if (!backing) return errno_error(errno, fmt::format("open {}", backing_file.string()));
    for (int attempt = 0; attempt < attach_attempts; ++attempt) {
        TRY_ASSIGN(auto loop, try_attach(control.get(), backing.get(), backing_file));
        if (loop) return std::move(*loop);
    }
    return error{errc::no_space, fmt::format("no loop device stayed free for {} in {} attempts", backing_file.string(),
                                             attach_attempts)};
}

status detach_loop(const loop_info& loop, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const auto still_ours = [&]() -> result<bool> {
        TRY_ASSIGN(const auto now, read_loop(loop.number));
        return now && now->backing_file == loop.backing_file;
    };
    TRY_ASSIGN(const bool there, still_ours());
    if (!there) return ok();
    TRY(ensure_node(loop));
    unique_fd device{::open(loop.device.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!device && errno != ENXIO) return errno_error(errno, fmt::format("open {}", loop.device));
    if (device) {
        TRY_ASSIGN(const bool same, still_ours());  // the number cannot change hands while it is open
        if (!same) return ok();
        // The last close writes back what is dirty, which waits for as long as the volume holds.
        TRY(run_isolated({call_clear, nullptr, std::move(device)}, fmt::format("detach {}", loop.device), timeout));
    }
    // Somebody else may have it open (udev's probes do for moments); sysfs offers nothing to wait on, so look again.
    for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, 100)) {
        TRY_ASSIGN(const bool left, still_ours());
        if (!left) return ok();
        if (std::chrono::steady_clock::now() >= deadline)
            return error{errc::busy, fmt::format("{} is still open somewhere; the kernel detaches it at the last close",
                                                 loop.device)};
        ::poll(nullptr, 0, pause_ms);
    }
}

}  // namespace weft
