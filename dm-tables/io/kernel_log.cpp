// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/kernel_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "dm-tables/core/text.hpp"

namespace weft::dm {

kernel_log::kernel_log() : fd_(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (fd_ >= 0) (void)::lseek(fd_, 0, SEEK_END);
}

kernel_log::~kernel_log() {
    if (fd_ >= 0) (void)::close(fd_);
}

std::string kernel_log::said() const {
    std::string lines;
    std::array<char, 8192>
        record{};  // one record a read: "6,339,5140900,-;text\n" (Documentation/ABI/testing/dev-kmsg)
    while (fd_ >= 0) {
        const ssize_t size = ::read(fd_, record.data(), record.size());
        if (size < 0 && errno == EPIPE) continue;  // records were overwritten: go on with the oldest that is left
        if (size <= 0) break;
        std::string_view text(record.data(), static_cast<std::size_t>(size));
        text = text.substr(text.find(';') + 1);
        text = text.substr(0, text.find('\n'));
        if (text.find("device-mapper") == std::string_view::npos && !text.starts_with("md")) continue;
        if (lines.size() < 1000) lines += (lines.empty() ? "" : "; ") + shown(text);
    }
    return lines;
}

}  // namespace weft::dm
