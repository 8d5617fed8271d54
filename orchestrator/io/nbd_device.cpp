// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/nbd.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "orchestrator/io/nbd_handshake.hpp"
#include "orchestrator/io/nbd_netlink.hpp"
#include "orchestrator/io/process.hpp"
#include "orchestrator/io/uevent_wait.hpp"

namespace weft {

namespace {

using std::chrono::milliseconds;

constexpr const char* module_directory = "/sys/module/nbd";
constexpr std::uint64_t block_bytes_min = 512;  // blk_validate_block_size(): 512..page size, a power of two
constexpr std::uint64_t block_bytes_max = 4096;
constexpr std::size_t backend_bytes_max = 255;
constexpr milliseconds resend_after_min{1000};
// The driver's own choice after NBD_ATTR_TIMEOUT 0 (nbd_set_cmd_timeout): what the device's next user may expect.
constexpr milliseconds driver_io_timeout{30000};
constexpr milliseconds io_timeout_wait{1000};

status check_spec(const nbd_spec& spec) {
    const auto refuse = [](std::string text) { return error{errc::invalid_argument, std::move(text)}; };
    if (spec.backend.empty() || spec.backend.size() > backend_bytes_max ||
        spec.backend.find_first_of(std::string_view{"\n\0", 2}) != std::string::npos)
        return refuse("the mark of an nbd device has 1 to 255 bytes and no line break");
    if (spec.connections < 1 || spec.connections > nbd_connections_max)
        return refuse(
            fmt::format("an nbd device has 1 to {} connections, not {}", nbd_connections_max, spec.connections));
    if (spec.block_bytes != 0 && (!std::has_single_bit(spec.block_bytes) || spec.block_bytes < block_bytes_min ||
                                  spec.block_bytes > block_bytes_max))
        return refuse(fmt::format("an nbd device's block size is 512, 1024, 2048 or 4096, not {}", spec.block_bytes));
    if (spec.resend_after < resend_after_min)
        return refuse(fmt::format("the driver looks at unanswered requests at most once a second, not every {} ms",
                                  spec.resend_after.count()));
    if (spec.dead_connection < std::chrono::seconds{1} || spec.dead_connection > nbd_wait_for_ever)
        return refuse("an nbd device keeps its requests for 1 second to 10 years without a connection");
    return ok();
}

/// One connect at a time on this machine; see the header.
result<unique_fd> lock_driver() {
    unique_fd lock{::open(module_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!lock)
        return errno == ENOENT ? nbd_not_available() : errno_error(errno, fmt::format("open {}", module_directory));
    while (::flock(lock.get(), LOCK_EX) != 0)
        if (errno != EINTR) return errno_error(errno, fmt::format("lock {}", module_directory));
    return lock;
}

/// The device with this mark, if there is one.
result<std::optional<nbd_device>> find_exactly(const std::string& backend) {
    TRY_ASSIGN(auto found, find_nbd(backend));
    std::erase_if(found, [&backend](const nbd_device& device) { return device.backend != backend; });
    if (found.empty()) return std::optional<nbd_device>{};
    if (found.size() > 1)
        return error{errc::busy,
                     fmt::format("{} and {} both carry the mark {}; one of them was disconnected and is still "
                                 "held open: close it",
                                 found[0].device, found[1].device, backend)};
    return std::optional<nbd_device>{std::move(found.front())};
}

struct file_text {
    const char* path;
    const std::string* text;
};

int call_write(int, const void* argument) {
    const auto& what = *static_cast<const file_text*>(argument);
    const int file = ::open(what.path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return errno;
    const ssize_t n = ::write(file, what.text->data(), what.text->size());
    return n == static_cast<ssize_t>(what.text->size()) ? 0 : n < 0 ? errno : EIO;
}

/// Not part of the netlink commands. Killed before: the driver's 30 s stay until the next call.
/// Newer kernels freeze the queue for it (queue_attr_store, Linux 6.11), which waits for the requests under way: a
/// child does it, and may come to it later.
status set_io_timeout(int index, milliseconds timeout) {
    const auto path = fmt::format("/sys/block/nbd{}/queue/io_timeout", index);
    const auto text = fmt::format("{}\n", timeout.count());
    TRY_ASSIGN(const auto now, read_file(path));
    if (now == text) return ok();
    const file_text what{path.c_str(), &text};
    auto written = run_isolated({call_write, &what, {}}, "write " + path, io_timeout_wait);
    if (written.has_error() && written.error().code == errc::timed_out) return ok();
    return written;
}

/// What the device is to be: the server's words and the spec's put together.
result<nbd_netlink::connect_request> plan_device(const nbd_spec& spec, const nbd_export& served) {
    nbd_netlink::connect_request plan;
    const std::uint64_t preferred =
        std::clamp(std::bit_floor(served.block_preferred), block_bytes_min, block_bytes_max);
    plan.bytes = served.bytes;
    plan.block_bytes = spec.block_bytes != 0 ? spec.block_bytes : std::max(preferred, std::bit_ceil(served.block_min));
    plan.flags = served.flags;
    if (spec.read_only) plan.flags |= NBD_FLAG_READ_ONLY;
    plan.backend = spec.backend;
    plan.dead_connection = spec.dead_connection;
    if (spec.bytes != 0 && served.bytes != spec.bytes)
        return error{errc::conflict,
                     fmt::format("the server exports {} bytes where {} are expected", served.bytes, spec.bytes)};
    if (served.block_min > plan.block_bytes || plan.block_bytes > block_bytes_max)
        return error{errc::conflict, fmt::format("the server wants blocks of at least {} bytes, the device has {}",
                                                 served.block_min, std::min(plan.block_bytes, block_bytes_max))};
    if (plan.bytes == 0 || plan.bytes % plan.block_bytes != 0)
        return error{errc::conflict, fmt::format("{} bytes are not a whole number of blocks of {} bytes", plan.bytes,
                                                 plan.block_bytes)};
    return plan;
}

/// The block layer makes no more hardware queues than there may be processors (__blk_mq_update_nr_hw_queues,
/// nr_cpu_ids); a socket beyond that would carry nothing, and how many sockets a device has could not be told from its
/// queues.
unsigned queues_max() {
    return static_cast<unsigned>(std::max(::sysconf(_SC_NPROCESSORS_CONF), 1L));
}

using negotiated = std::vector<negotiated_nbd>;

/// As many connections as the spec and the server want. All of one mind: a server that was replaced in between would
/// give the device sockets of two exports.
result<negotiated> negotiate_all(const nbd_spec& spec) {
    negotiated all;
    unsigned wanted = 1;
    while (all.size() < wanted) {
        TRY_ASSIGN(auto one, negotiate_nbd(spec.socket, spec.export_name, spec.handshake_timeout));
        if (all.empty()) {
            if ((one.served.flags & NBD_FLAG_CAN_MULTI_CONN) != 0) wanted = std::min(spec.connections, queues_max());
        } else if (one.served != all.front().served) {
            return error{
                errc::unavailable,
                fmt::format("the server at {} changed while it was being connected; try again", spec.socket.native())};
        }
        all.push_back(std::move(one));
    }
    return all;
}

/// New sockets for the dead ones of a device that is there. Errors: also not_found, when the kernel does not let it be
/// reconfigured.
result<nbd_attachment> revive(nbd_netlink& netlink, nbd_device device, const nbd_spec& spec) {
    nbd_attachment revived;
    if (spec.bytes != 0 && device.bytes != spec.bytes)
        return error{errc::conflict,
                     fmt::format("{} has {} bytes where {} are expected", device.device, device.bytes, spec.bytes)};
    while (revived.new_sockets < device.connections) {
        TRY_ASSIGN(const auto fresh, negotiate_nbd(spec.socket, spec.export_name, spec.handshake_timeout));
        if (fresh.served.bytes < device.bytes)
            return error{errc::conflict,
                         fmt::format("{} has {} bytes, but the server at {} exports only {}", device.device,
                                     device.bytes, spec.socket.native(), fresh.served.bytes)};
        TRY_ASSIGN(const bool taken, netlink.replace_socket(device.index, spec.backend, fresh.socket.get()));
        if (!taken) break;
        ++revived.new_sockets;
    }
    TRY(set_io_timeout(device.index, spec.resend_after));
    revived.device = std::move(device);
    return revived;
}

/// A device that refuses to be reconfigured: gone meanwhile (nullopt), or one that only waits for its last close
/// (busy).
result<std::optional<nbd_attachment>> revive_if_there(nbd_netlink& netlink, const nbd_spec& spec) {
    TRY_ASSIGN(auto there, find_exactly(spec.backend));
    if (!there) return std::optional<nbd_attachment>{};
    const int index = there->index;
    auto revived = revive(netlink, std::move(*there), spec);
    if (revived.has_value()) return std::optional<nbd_attachment>{std::move(*revived)};
    if (revived.error().code != errc::not_found) return std::move(revived).error();
    TRY_ASSIGN(const auto still, read_nbd(index, spec.backend));
    if (!still) return std::optional<nbd_attachment>{};
    return error{errc::busy,
                 fmt::format("{} was disconnected, but somebody still holds it open; unmount or close it, then "
                             "it can be connected anew",
                             still->device)};
}

/// Under the driver's lock.
result<nbd_device> make_device(nbd_netlink& netlink, const nbd_spec& spec, const negotiated& connections) {
    TRY_ASSIGN(auto plan, plan_device(spec, connections.front().served));
    for (const auto& one : connections) plan.sockets.push_back(one.socket.get());
    TRY_ASSIGN(const auto index, netlink.connect(plan));
    if (!index) {
        TRY_ASSIGN(auto found, find_exactly(spec.backend));
        if (found) return std::move(*found);
        return error{errc::outcome_unknown, "the kernel connected an nbd device but did not say which"};
    }
    TRY_ASSIGN(auto made, read_nbd(*index, spec.backend));
    if (made) return std::move(*made);
    TRY(netlink.disconnect(*index, spec.handshake_timeout));
    return error{errc::unsupported,
                 "this kernel does not mark its nbd devices; Weft needs Linux 5.14 or later for them"};
}

}  // namespace

status load_nbd_module() {
    if (::access(module_directory, F_OK) == 0) return ok();
    auto loaded = run({.argv = {"modprobe", "nbd", "max_part=0"}, .timeout = milliseconds{30000}});
    if (loaded.has_error()) return error{errc::unavailable, loaded.error().within("load the nbd driver").text};
    if (loaded->exit_code == 0) return ok();
    while (loaded->output.ends_with('\n')) loaded->output.pop_back();
    return error{errc::unavailable, fmt::format("{} (modprobe: {})", nbd_not_available().text, loaded->output)};
}

result<nbd_attachment> connect_nbd(const nbd_spec& spec) {
    TRY(check_spec(spec));
    TRY_ASSIGN(auto netlink, nbd_netlink::open());
    TRY_ASSIGN(auto there, revive_if_there(netlink, spec));
    if (there) return std::move(*there);
    TRY_ASSIGN(const auto connections, negotiate_all(spec));  // may take its time: not under the lock
    nbd_attachment attached;
    {
        TRY_ASSIGN(const auto lock, lock_driver());
        TRY_ASSIGN(const auto raced, find_exactly(spec.backend));
        if (!raced) {
            TRY_ASSIGN(attached.device, make_device(netlink, spec, connections));
            attached.made = true;
        }
    }
    if (attached.made) {
        TRY(set_io_timeout(attached.device.index, spec.resend_after));
        return attached;
    }
    TRY_ASSIGN(auto raced, revive_if_there(netlink, spec));
    if (raced) return std::move(*raced);
    return error{errc::busy, fmt::format("somebody else connects and disconnects {}", spec.backend)};
}

result<nbd_attachment> reconfigure_nbd(const nbd_device& device, const nbd_spec& spec) {
    TRY(check_spec(spec));
    if (device.backend != spec.backend)
        return error{errc::invalid_argument,
                     fmt::format("{} carries the mark {}, not {}", device.device, device.backend, spec.backend)};
    TRY_ASSIGN(auto netlink, nbd_netlink::open());
    TRY_ASSIGN(auto there, revive_if_there(netlink, spec));
    if (there) return std::move(*there);
    return error{errc::not_found, fmt::format("no nbd device is connected for {}", spec.backend)};
}

status grow_nbd(const nbd_device& device, std::uint64_t bytes) {
    TRY_ASSIGN(auto netlink, nbd_netlink::open());
    TRY_ASSIGN(const auto now, read_nbd(device.index, device.backend));
    if (!now) return error{errc::not_found, fmt::format("no nbd device is connected for {}", device.backend)};
    if (bytes < now->bytes)
        return error{errc::invalid_argument, fmt::format("{} has {} bytes; an nbd device is never made smaller ({})",
                                                         now->device, now->bytes, bytes)};
    return netlink.set_size(now->index, now->backend, bytes);
}

status disconnect_nbd(const nbd_device& device, milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    TRY_ASSIGN(auto netlink, nbd_netlink::open());
    TRY_ASSIGN(auto uevents, uevent_wait::open());
    TRY_ASSIGN(const auto there, read_nbd(device.index, device.backend));
    if (!there) return ok();
    // For the device's next user, who may count on the driver's own period; of no importance if it fails.
    (void)set_io_timeout(there->index, driver_io_timeout);
    TRY(netlink.disconnect(there->index, timeout));
    TRY_ASSIGN(const bool is_free, uevents.until(
                                       [&]() -> result<bool> {
                                           TRY_ASSIGN(const auto still, read_nbd(there->index, there->backend));
                                           if (!still) return true;
                                           // The event is sent when the configuration has no user left, but before
                                           // its traces in /sys are removed.
                                           TRY_ASSIGN(const bool configured, netlink.is_configured(there->index));
                                           return !configured;
                                       },
                                       deadline));
    if (is_free) return ok();
    return error{errc::busy,
                 fmt::format("{} is disconnected, but still held open somewhere; the kernel frees it when the "
                             "last one closes it",
                             there->device)};
}

}  // namespace weft
