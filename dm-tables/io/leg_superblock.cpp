// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/leg_superblock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace weft::dm {

namespace {

/// Direct I/O wants its memory as aligned as a block.
struct alignas(block_bytes) aligned_block {
    std::array<std::byte, block_bytes> bytes{};
};

class first_block {
public:
    explicit first_block(const std::string& device) : device_(device) {}
    ~first_block() {
        if (fd_ >= 0) (void)::close(fd_);
    }
    first_block(const first_block&) = delete;
    first_block& operator=(const first_block&) = delete;

    status read() {
        fd_ = ::open(device_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd_ < 0) return failed("open");
        return whole(::pread(fd_, block_.bytes.data(), block_.bytes.size(), 0), "read");
    }
    status write() {
        TRY(whole(::pwrite(fd_, block_.bytes.data(), block_.bytes.size(), 0), "write"));
        return ::fdatasync(fd_) == 0 ? ok() : failed("flush");
    }
    leg_block bytes() { return block_.bytes; }

private:
    error failed(const char* what) { return errno_error(errno, fmt::format("{} {}", what, device_)); }
    status whole(ssize_t done, const char* what) {
        if (done < 0) return failed(what);
        if (done != static_cast<ssize_t>(block_.bytes.size()))
            return error{errc::io_failed, EIO, fmt::format("{} {}: {} bytes instead of a block", what, device_, done)};
        return ok();
    }

    const std::string& device_;
    int fd_ = -1;
    aligned_block block_;
};

}  // namespace

status doubt_leg(const std::string& device) {
    first_block block(device);
    TRY(block.read());
    if (content_of(block.bytes()) != leg_content::superblock)
        return error{errc::corrupt, fmt::format("{} does not begin with a superblock of dm-raid", device)};
    return mark_dirty(block.bytes()) ? block.write() : ok();
}

}  // namespace weft::dm
