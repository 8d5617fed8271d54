// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/udev.hpp"

#include <fmt/format.h>
#include <libudev.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <thread>
#include <utility>

#include "dm-tables/core/crypt_device.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

constexpr std::uint64_t sector_bytes = 512;  // sysfs counts in these, whatever the device's own are

template <auto Unref>
struct unref {
    template <typename T>
    void operator()(T* object) const noexcept {
        Unref(object);
    }
};
using udev_ptr = std::unique_ptr<udev, unref<udev_unref>>;
using device_ptr = std::unique_ptr<udev_device, unref<udev_device_unref>>;
using enumerate_ptr = std::unique_ptr<udev_enumerate, unref<udev_enumerate_unref>>;
using monitor_ptr = std::unique_ptr<udev_monitor, unref<udev_monitor_unref>>;

result<udev_ptr> open_udev() {
    udev_ptr context{::udev_new()};
    if (!context) return errno_error(errno == 0 ? ENOMEM : errno, "open libudev");
    return context;
}

/// Hardware may call itself anything: printable ASCII is left, without spaces around it.
std::string readable(const char* text) {
    std::string kept;
    for (const char c : std::string_view(text == nullptr ? "" : text)) kept += c > ' ' && c < 0x7f ? c : ' ';
    const std::size_t first = kept.find_first_not_of(' ');
    if (first == std::string::npos) return {};
    return kept.substr(first, kept.find_last_not_of(' ') - first + 1);
}

std::string first_of(udev_device* device, std::initializer_list<const char*> properties,
                     std::initializer_list<const char*> attributes) {
    for (const char* name : properties)
        if (auto found = readable(::udev_device_get_property_value(device, name)); !found.empty()) return found;
    for (udev_device* at = device; at != nullptr; at = ::udev_device_get_parent(at))
        for (const char* name : attributes)
            if (auto found = readable(::udev_device_get_sysattr_value(at, name)); !found.empty()) return found;
    return {};
}

bool has_entries(const std::string& directory) {
    std::error_code problem;
    const std::filesystem::directory_iterator entries{directory, problem};
    return !problem && entries != std::filesystem::directory_iterator{};
}

block_device describe(udev_device* device) {
    block_device found;
    if (const char* node = ::udev_device_get_devnode(device)) found.name = node;
    const dev_t number = ::udev_device_get_devnum(device);
    found.number = {::major(number), ::minor(number)};
    if (const char* size = ::udev_device_get_sysattr_value(device, "size")) {
        const std::string_view text{size};
        std::uint64_t sectors = 0;
        std::from_chars(text.data(), text.data() + text.size(), sectors);
        found.size_bytes = sectors * sector_bytes;
    }
    found.known_to_udev = ::udev_device_get_is_initialized(device) > 0;
    if (const char* uuid = ::udev_device_get_property_value(device, "ID_FS_UUID")) found.filesystem = uuid;
    found.held = has_entries(std::string(::udev_device_get_syspath(device)) + "/holders");
    const auto attribute = [device](const char* name) {
        const char* value = ::udev_device_get_sysattr_value(device, name);
        return std::string_view(value == nullptr ? "" : value);
    };
    const std::string_view kernel_name{::udev_device_get_sysname(device)}, mapped = attribute("dm/uuid");
    found.of_weft = kernel_name.starts_with("nbd") || mapped.starts_with("WEFT-") ||
                    dm::is_crypt_device(attribute("dm/name"), mapped);
    found.model = first_of(device, {"ID_MODEL"}, {"model"});
    found.serial = first_of(device, {"ID_SERIAL_SHORT", "ID_SERIAL"}, {"serial"});
    return found;
}

}  // namespace

result<std::vector<block_device>> list_block_devices() {
    TRY_ASSIGN(const auto context, open_udev());
    const enumerate_ptr all{::udev_enumerate_new(context.get())};
    if (!all || ::udev_enumerate_add_match_subsystem(all.get(), "block") < 0 ||
        ::udev_enumerate_scan_devices(all.get()) < 0)
        return error{errc::io_failed, "cannot list the block devices (libudev)"};
    std::vector<block_device> found;
    udev_list_entry* entry = nullptr;
    udev_list_entry_foreach(entry, ::udev_enumerate_get_list_entry(all.get())) {
        const device_ptr device{::udev_device_new_from_syspath(context.get(), ::udev_list_entry_get_name(entry))};
        if (!device) continue;  // gone meanwhile
        auto described = describe(device.get());
        if (described.size_bytes > 0 && !described.name.empty()) found.push_back(std::move(described));
    }
    return found;
}

result<block_device> describe_block_device(device_number number) {
    TRY_ASSIGN(const auto context, open_udev());
    const device_ptr device{::udev_device_new_from_devnum(context.get(), 'b', ::makedev(number.major, number.minor))};
    if (!device)
        return error{errc::not_found, fmt::format("there is no block device {}:{}", number.major, number.minor)};
    return describe(device.get());
}

namespace {

result<monitor_ptr> listen_to(udev* context, const char* source) {
    monitor_ptr monitor{::udev_monitor_new_from_netlink(context, source)};
    if (!monitor || ::udev_monitor_filter_add_match_subsystem_devtype(monitor.get(), "block", nullptr) < 0 ||
        ::udev_monitor_enable_receiving(monitor.get()) < 0)
        return error{errc::io_failed, fmt::format("cannot listen to the block devices' events ({})", source)};
    return monitor;
}

}  // namespace

class block_device_watch::impl {
public:
    impl(udev_ptr context, monitor_ptr of_udevd, monitor_ptr of_kernel, callback on_change)
        : context_(std::move(context)),
          monitors_{std::move(of_udevd), std::move(of_kernel)},
          on_change_(std::move(on_change)),
          stop_(::eventfd(0, EFD_CLOEXEC)) {
        INVARIANT(stop_, "block_device_watch: eventfd: errno {}", errno);
        thread_ = std::thread{[this] { loop(); }};
    }
    ~impl() {
        INVARIANT(std::this_thread::get_id() != thread_.get_id(), "block_device_watch destroyed by its own callback");
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto n = ::write(stop_.get(), &one, sizeof one);
        thread_.join();
    }

private:
    /// Volumes' own devices come and go with every attach: nobody looks for drives because of them.
    static bool matters(udev_device* device) {
        return !std::string_view(::udev_device_get_sysname(device)).starts_with("nbd");
    }

    void loop() {
        for (;;) {
            std::array<pollfd, 3> waiting{pollfd{stop_.get(), POLLIN, 0},
                                          pollfd{::udev_monitor_get_fd(monitors_[0].get()), POLLIN, 0},
                                          pollfd{::udev_monitor_get_fd(monitors_[1].get()), POLLIN, 0}};
            if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;  // EINTR
            if (waiting[0].revents != 0) return;
            bool changed = false;
            for (std::size_t i = 0; i < monitors_.size(); ++i) {
                if (waiting[i + 1].revents == 0) continue;
                const device_ptr device{::udev_monitor_receive_device(monitors_[i].get())};
                changed = changed || !device || matters(device.get());  // none: an event was lost, or filtered out
            }
            if (changed) on_change_();
        }
    }

    const udev_ptr context_;
    const std::array<monitor_ptr, 2> monitors_;
    const callback on_change_;
    const unique_fd stop_;
    std::thread thread_;
};

block_device_watch::block_device_watch(std::unique_ptr<impl> made) : impl_(std::move(made)) {}
block_device_watch::~block_device_watch() = default;

result<std::unique_ptr<block_device_watch>> block_device_watch::start(callback on_change) {
    TRY_ASSIGN(auto context, open_udev());
    TRY_ASSIGN(auto of_udevd, listen_to(context.get(), "udev"));
    TRY_ASSIGN(auto of_kernel, listen_to(context.get(), "kernel"));
    return std::unique_ptr<block_device_watch>(new block_device_watch(
        std::make_unique<impl>(std::move(context), std::move(of_udevd), std::move(of_kernel), std::move(on_change))));
}

}  // namespace weft
