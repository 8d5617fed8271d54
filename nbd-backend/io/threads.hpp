// SPDX-License-Identifier: Apache-2.0
// Threads of the volume server: named, and deaf to signals (nbdkit's own threads handle those).
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace weft::io {

/// `name` is cut to the 15 characters that the kernel keeps.
std::thread start_thread(std::string name, std::function<void()> body);

}  // namespace weft::io
