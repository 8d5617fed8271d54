// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/crash_point.hpp"

#ifdef WEFT_CRASH_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace weft {

namespace {

constexpr std::size_t path_max = 512;
pid_t victim = 0;  // 0: this process

bool holds(const char* path, const char* name) noexcept {
    std::array<char, 128> text{};
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    const auto length = ::read(file, text.data(), text.size());
    ::close(file);
    return length > 0 && static_cast<std::size_t>(length) == std::strlen(name) &&
           std::memcmp(text.data(), name, static_cast<std::size_t>(length)) == 0;
}

}  // namespace

void crash_point(const char* name) noexcept {
    static constexpr char suffix[] = ".died";
    const char* path = std::getenv("WEFT_CRASH_FILE");
    if (path == nullptr || !holds(path, name)) return;
    const std::size_t length = std::strlen(path);
    std::array<char, path_max> died{};
    if (length + sizeof suffix > died.size()) return;
    std::memcpy(died.data(), path, length);
    std::memcpy(died.data() + length, suffix, sizeof suffix);
    if (std::rename(path, died.data()) != 0) return;  // another process was first
    ::kill(victim == 0 ? ::getpid() : victim, SIGKILL);
    for (;;) ::pause();
}

void crash_of_parent() noexcept {
    victim = ::getppid();
}

}  // namespace weft

#endif
