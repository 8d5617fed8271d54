// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/crypt_layer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "dm-tables/core/crypt_device.hpp"
#include "dm-tables/io/dm_driver.hpp"
#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/io/dm_process.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/luks_process.hpp"
#include "orchestrator/io/process.hpp"
#include "orchestrator/io/volume_key.hpp"

namespace weft {

namespace {

/// A format writes 8 MiB, an open reads one; half of dockerd's patience with a Mount (docker-plugin facts, 3.2).
constexpr std::chrono::seconds luks_wait{60};
constexpr std::chrono::seconds blank_wait{60};
constexpr std::size_t blanked_bytes = mib;

class unlocker {
public:
    unlocker(const daemon_options& options, const volume_shape& shape, const dm::observed_device& top,
             std::string device, int server)
        : options_(options), shape_(shape), top_(top), server_(server) {
        luks_ = {std::move(device), shape.encryption->luks_uuid, dm::crypt_name(top.name)};
    }

    result<std::string> run(const dm::observed_device* clear) {
        if (clear == nullptr) {
            TRY(open());
        } else {
            if (!clear->uuid.starts_with(dm::crypt_uuid_prefix(luks_.uuid)))
                return error{errc::busy,
                             fmt::format("device {} is there already, but of another LUKS header (device-mapper UUID "
                                         "{}); find out whose it is, and remove it with cryptsetup close",
                                         clear->name, clear->uuid)};
            TRY(resize(*clear));
        }
        return dm::node_path(luks_.name);
    }

private:
    status open() {
        TRY_ASSIGN(const auto key, read_volume_key(options_, shape_.name, shape_.id));
        return call(shape_.encryption->formatted ? luks_verb::open : luks_verb::open_new, key);
    }

    status resize(const dm::observed_device& clear) {
        const auto reach = clear.active ? dm::crypt_reach_sectors(*clear.active) : std::nullopt;
        if (!reach || !top_.active || *reach >= dm::length_sectors(*top_.active)) return ok();
        TRY_ASSIGN(const auto key, read_volume_key(options_, shape_.name, shape_.id));
        TRY(call(luks_verb::resize, key));
        WEFT_CRASH_POINT("kernel.crypt-resized");
        return ok();
    }

    status call(luks_verb verb, const encryption_key& key) {
        auto done = run_luks(verb, luks_, key.bytes, luks_wait, server_);
        if (done.has_error() && done.error().code == errc::unavailable && !has_ended(server_))
            return error{errc::unavailable,
                         fmt::format("{}; it came from {}; nothing was changed", done.error().text, key.source)};
        return done;
    }

    const daemon_options& options_;
    const volume_shape& shape_;
    const dm::observed_device& top_;
    const int server_;
    dm::luks_volume luks_;
};

/// In a child (run_isolated): zeroes both ends and makes that durable.
int call_blank(int, const void* argument) {
    static constexpr std::array<char, 64 * kib> zeros{};
    // A mkfs that was left behind has the device, and its lock.
    const int lock = ::open(static_cast<const char*>(argument), O_RDONLY | O_CLOEXEC);
    if (lock < 0 || ::flock(lock, LOCK_EX) != 0) return errno;
    // O_EXCL: refused while it is mounted or mapped (open(2)).
    const int fd = ::open(static_cast<const char*>(argument), O_RDWR | O_EXCL | O_CLOEXEC);
    if (fd < 0) return errno;
    const off_t size = ::lseek(fd, 0, SEEK_END);
    if (size < 0) return errno;
    const off_t end = size;
    const auto piece = static_cast<off_t>(blanked_bytes);
    for (const off_t start : {off_t{0}, end > piece ? end - piece : off_t{0}})
        for (off_t at = start; at < end && at < start + piece;) {
            const auto left = static_cast<std::size_t>(end - at);
            const ssize_t n = ::pwrite(fd, zeros.data(), left < zeros.size() ? left : zeros.size(), at);
            if (n < 0 && errno != EINTR) return errno;
            if (n > 0) at += n;
        }
    return ::fsync(fd) == 0 ? 0 : errno;
}

}  // namespace

result<std::string> unlock_device(const daemon_options& options, const kernel_scope& scope, const volume_shape& shape,
                                  const std::string& device, int server) {
    TRY_ASSIGN(const auto found, observe_volume(scope, shape.id, {}));
    const auto* top = find_top(found);
    if (top == nullptr || !top->active)
        return error{errc::busy, fmt::format("device {} of volume '{}' went away", device, shape.name)};
    return unlocker(options, shape, *top, device, server).run(dm::find_crypt(found, top->name));
}

status blank_clear_device(const std::string& device, int server) {
    const auto what = fmt::format("blank {}", device);
    TRY(await_left_behind(what, blank_wait, server));
    return run_isolated({call_blank, device.c_str(), {}, server}, what, blank_wait);
}

status remove_clear_device(const kernel_scope& scope, const volume_id& id, int server) {
    TRY_ASSIGN(const auto found, observe_volume(scope, id, {}));
    for (const auto& device : found.devices)
        if (dm::is_crypt_device(device.name, device.uuid))
            TRY(apply_steps(id, {{dm::step::verb::remove, device.name, device.uuid, {}}}, server));
    return ok();
}

}  // namespace weft
