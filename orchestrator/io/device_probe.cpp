// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/device_probe.hpp"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

struct probe_deleter {
    void operator()(blkid_probe probe) const { ::blkid_free_probe(probe); }
};
using probe_handle = std::unique_ptr<blkid_struct_probe, probe_deleter>;

std::string value_of(blkid_probe probe, const char* name) {
    const char* data = nullptr;
    std::size_t length = 0;
    if (::blkid_probe_lookup_value(probe, name, &data, &length) != 0 || data == nullptr) return {};
    return std::string(data);
}

/// libblkid says "nothing" for what it could not read, too; so the first bytes, where signatures live, are read here.
status check_readable(int fd, const std::string& device) {
    constexpr std::size_t looked_at = 256 * 1024;
    const auto buffer = std::make_unique<char[]>(looked_at);
    std::size_t done = 0;
    while (done < looked_at) {
        const ssize_t n = ::pread(fd, buffer.get() + done, looked_at - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error(errno, fmt::format("read {}", device));
        if (n == 0) break;
        done += static_cast<std::size_t>(n);
    }
    return ok();
}

}  // namespace

result<probe_result> probe_open_device(int fd, const std::string& device) {
    TRY(check_readable(fd, device));
    const probe_handle probe{::blkid_new_probe()};
    if (!probe || ::blkid_probe_set_device(probe.get(), fd, 0, 0) != 0)
        return errno_error(errno == 0 ? ENOMEM : errno, fmt::format("probe {}", device));
    ::blkid_probe_enable_superblocks(probe.get(), 1);
    ::blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_LABEL |
                                                         BLKID_SUBLKS_USAGE | BLKID_SUBLKS_BADCSUM);
    ::blkid_probe_enable_partitions(probe.get(), 1);
    errno = 0;
    const int outcome = ::blkid_do_safeprobe(probe.get());  // 0 found, 1 nothing, -2 ambivalent, -1 error
    const int failure = errno;
    probe_result found;
    if (outcome == 1) {
        TRY(check_readable(fd, device));  // a device that failed in between must not look empty
        found.empty = true;
        return found;
    }
    if (outcome == -2) {
        found.ambivalent = true;
        return found;
    }
    if (outcome != 0) return errno_error(failure == 0 ? EIO : failure, fmt::format("probe {}", device));
    found.type = value_of(probe.get(), "TYPE");
    found.uuid = value_of(probe.get(), "UUID");
    found.label = value_of(probe.get(), "LABEL");
    const std::string table = value_of(probe.get(), "PTTYPE");
    if (!table.empty()) {
        found.partition_table = true;
        found.ambivalent = !found.type.empty();
        if (found.type.empty()) found.type = table;
    }
    return found;
}

result<std::vector<device_signature>> find_signatures(int fd, const std::string& name) {
    const probe_handle probe{::blkid_new_probe()};
    if (!probe || ::blkid_probe_set_device(probe.get(), fd, 0, 0) != 0)
        return errno_error(errno == 0 ? ENOMEM : errno, fmt::format("probe {}", name));
    ::blkid_probe_enable_superblocks(probe.get(), 1);
    ::blkid_probe_set_superblocks_flags(
        probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_BADCSUM);
    ::blkid_probe_enable_partitions(probe.get(), 1);
    ::blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_FORCE_GPT);
    std::vector<device_signature> found;
    for (;;) {
        errno = 0;
        const int outcome = ::blkid_do_probe(probe.get());  // 0: another one, 1: no more
        if (outcome == 1) return found;
        if (outcome != 0) return errno_error(errno == 0 ? EIO : errno, fmt::format("probe {}", name));
        device_signature one{value_of(probe.get(), "TYPE"), value_of(probe.get(), "UUID"),
                             value_of(probe.get(), "LABEL")};
        if (one.type.empty()) one = {value_of(probe.get(), "PTTYPE"), value_of(probe.get(), "PTUUID"), ""};
        if (!one.type.empty()) found.push_back(std::move(one));
    }
}

std::string describe(const probe_result& found) {
    if (found.ambivalent && found.type.empty()) return "several signatures at once (blkid calls the device ambivalent)";
    if (found.partition_table)
        return fmt::format("a partition table ({})", found.type) +
               (found.ambivalent ? " together with another signature" : "");
    std::string text = found.type.empty() ? "something that blkid cannot name" : fmt::format("'{}'", found.type);
    if (!found.uuid.empty()) text += fmt::format(" with UUID {}", found.uuid);
    if (!found.label.empty()) text += fmt::format(" and label '{}'", found.label);
    return text;
}

result<probe_result> probe_device(const std::filesystem::path& device) {
    const unique_fd fd{::open(device.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", device.string()));
    return probe_open_device(fd.get(), device.string());
}

}  // namespace weft
