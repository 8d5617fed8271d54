// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_sysfs.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t sector_bytes = 512;        // the unit of /sys/block/*/size, whatever the device's block size
constexpr std::size_t attribute_bytes_max = 8192;  // one page, as sysfs(5) has it, and room

template <typename T>
std::optional<T> parse_number(std::string_view text) {
    T value{};
    const char* const end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data(), end, value);
    if (failure != std::errc{} || stop != end) return std::nullopt;
    return value;
}

fs::path directory_of(const fs::path& sys, int index) {
    return sys / "block" / fmt::format("nbd{}", index);
}

/// An attribute without its line's end; nullopt when it is not there, or going away while we read (ENODEV).
result<std::optional<std::string>> attribute(const fs::path& directory, std::string_view name) {
    auto text = read_file(directory / name, attribute_bytes_max);
    if (text.has_error()) {
        if (text.error().os_errno == ENODEV || text.error().os_errno == ENXIO) return std::optional<std::string>{};
        return std::move(text).error();
    }
    if (*text && (*text)->ends_with('\n')) (*text)->pop_back();
    return std::move(*text);
}

std::optional<device_number> parse_device_number(std::string_view text) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    const auto major = parse_number<unsigned>(text.substr(0, colon));
    const auto minor = parse_number<unsigned>(text.substr(colon + 1));
    if (!major || !minor) return std::nullopt;
    device_number numbers;
    numbers.major = *major;
    numbers.minor = *minor;
    return numbers;
}

/// One directory below mq/ per hardware queue; nbd_start_device() makes as many as there are sockets.
unsigned count_queues(const fs::path& directory) {
    std::error_code failure;
    const fs::directory_iterator queues{directory / "mq", failure};
    return failure ? 0 : static_cast<unsigned>(std::distance(begin(queues), end(queues)));
}

result<std::optional<nbd_device>> read_device(int index, const fs::path& sys) {
    const fs::path directory = directory_of(sys, index);
    nbd_device found;
    TRY_ASSIGN(auto backend, attribute(directory, "backend"));
    TRY_ASSIGN(const auto sectors, attribute(directory, "size"));
    TRY_ASSIGN(const auto numbers, attribute(directory, "dev"));
    // Read last: it goes first when a device is taken down, so what was read before it belongs to a connected device.
    TRY_ASSIGN(const auto pid, attribute(directory, "pid"));
    if (!backend || backend->empty() || !sectors || !numbers || !pid) return std::optional<nbd_device>{};
    const auto count = parse_number<std::uint64_t>(*sectors);
    const auto device = parse_device_number(*numbers);
    if (!count || !device)
        return error{errc::io_failed, fmt::format("{} does not tell the device's size and number ('{}', '{}')",
                                                  directory.native(), *sectors, *numbers)};
    // The capacity is set after `pid` appears and taken back before it goes (nbd_start_device, nbd_config_put).
    if (*count == 0) return std::optional<nbd_device>{};
    found.index = index;
    found.device = fmt::format("/dev/nbd{}", index);
    found.numbers = *device;
    found.backend = std::move(*backend);
    found.bytes = *count * sector_bytes;
    found.connections = count_queues(directory);
    return std::optional<nbd_device>{std::move(found)};
}

}  // namespace

std::optional<int> parse_nbd_name(std::string_view name) {
    if (!name.starts_with("nbd")) return std::nullopt;
    const auto index = parse_number<int>(name.substr(3));
    if (!index || *index < 0 || fmt::format("nbd{}", *index) != name) return std::nullopt;
    return index;
}

result<std::vector<nbd_device>> find_nbd(const std::string& prefix, const fs::path& sys) {
    if (prefix.empty())
        return error{errc::invalid_argument, "looking for nbd devices with an empty mark would find everybody's"};
    std::vector<nbd_device> found;
    std::error_code failure;
    for (fs::directory_iterator entry{sys / "block", failure}, end; !failure && entry != end;
         entry.increment(failure)) {
        const auto index = parse_nbd_name(entry->path().filename().native());
        if (!index) continue;
        TRY_ASSIGN(auto device, read_device(*index, sys));
        if (device && device->backend.starts_with(prefix)) found.push_back(std::move(*device));
    }
    if (failure) return errno_error(failure.value(), fmt::format("list {}/block", sys.native()));
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
    return found;
}

result<std::optional<nbd_device>> read_nbd(int index, const std::string& backend, const fs::path& sys) {
    auto device = read_device(index, sys);
    if (device.has_value() && *device && (*device)->backend != backend) return std::optional<nbd_device>{};
    return device;
}

bool is_nbd_connected(int index, const fs::path& sys) {
    return ::access((directory_of(sys, index) / "pid").c_str(), F_OK) == 0;
}

}  // namespace weft
