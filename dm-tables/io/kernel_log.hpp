// SPDX-License-Identifier: Apache-2.0
// What the kernel says of device-mapper while we ask it for something: an ioctl only gives EINVAL, the reason is in its
// log. Best effort: without the right to read /dev/kmsg (CAP_SYSLOG) there is no reason to tell. One thread.
#pragma once

#include <string>

namespace weft::dm {

class kernel_log {
public:
    /// From now on.
    kernel_log();
    ~kernel_log();
    kernel_log(const kernel_log&) = delete;
    kernel_log& operator=(const kernel_log&) = delete;

    /// The lines of device-mapper and md since construction, joined by "; ", printable; may be empty.
    [[nodiscard]] std::string said() const;

private:
    int fd_;
};

}  // namespace weft::dm
