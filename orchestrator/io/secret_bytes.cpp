// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/secret_bytes.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace weft {

result<secret_bytes> secret_bytes::make() {
    void* page = ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return errno_error(errno, "get memory for a key");
    // Best effort: without these a key is as safe as any other memory of root's processes.
    (void)::mlock(page, capacity);
    (void)::madvise(page, capacity, MADV_DONTDUMP);
    (void)::madvise(page, capacity, MADV_WIPEONFORK);
    return secret_bytes(static_cast<char*>(page));
}

secret_bytes& secret_bytes::operator=(secret_bytes&& other) noexcept {
    std::swap(page_, other.page_);
    std::swap(size_, other.size_);
    return *this;
}

secret_bytes::~secret_bytes() {
    if (page_ == nullptr) return;
    ::explicit_bzero(page_, capacity);
    (void)::munmap(page_, capacity);
}

result<bool> secret_bytes::read_some(int fd) {
    // A byte beyond the end is read into a byte of its own, to tell "full" from "too much".
    char beyond = 0;
    const bool full = size_ == capacity;
    const ssize_t n = full ? ::read(fd, &beyond, 1) : ::read(fd, page_ + size_, capacity - size_);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0) return errno_error(errno, "read");
    ::explicit_bzero(&beyond, 1);
    if (n > 0 && full) return error{errc::invalid_argument, fmt::format("it is longer than {} bytes", capacity)};
    size_ += static_cast<std::size_t>(n);
    return n > 0;
}

status secret_bytes::read_all(int fd) {
    for (;;) {
        TRY_ASSIGN(const bool more, read_some(fd));
        if (!more) return ok();
    }
}

}  // namespace weft
