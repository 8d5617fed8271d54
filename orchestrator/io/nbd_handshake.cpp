// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_handshake.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libnbd.h>
#include <linux/nbd.h>
#include <sys/un.h>

#include <cerrno>
#include <memory>
#include <string_view>

namespace weft {

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// The protocol's bit for NBD_CMD_WRITE_ZEROES; linux/nbd.h has it from 6.11 on, older drivers ignore it.
constexpr std::uint64_t flag_write_zeroes = 1U << 6;
// NBD's own limit of an export name (its proto.md, "Values": strings are at most 4096 bytes).
constexpr std::size_t export_name_max = 4096;

struct handle_closer {
    void operator()(nbd_handle* handle) const noexcept { nbd_close(handle); }
};
using handle_ptr = std::unique_ptr<nbd_handle, handle_closer>;

/// What libnbd says of its last failed call of this thread.
error nbd_failure(errc code) {
    const char* const text = nbd_get_error();
    return {code, nbd_get_errno(), text != nullptr ? text : "libnbd failed"};
}

status wait_until_ready(nbd_handle* handle, milliseconds timeout) {
    const auto deadline = clock::now() + timeout;
    while (nbd_aio_is_ready(handle) != 1) {
        if (nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1) return nbd_failure(errc::unavailable);
        const auto left = std::chrono::ceil<milliseconds>(deadline - clock::now()).count();
        const int moved = left > 0 ? nbd_poll(handle, static_cast<int>(left)) : 0;
        if (moved < 0) return nbd_failure(errc::unavailable);
        if (moved == 0)
            return error{errc::timed_out, fmt::format("the server has not finished the handshake within {} ms; is it "
                                                      "stopped or overloaded?",
                                                      timeout.count())};
    }
    return ok();
}

result<nbd_export> read_export(nbd_handle* handle) {
    nbd_export served;
    const auto bytes = nbd_get_size(handle);
    const auto smallest = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);  // 0: the server did not say
    const auto preferred = nbd_get_block_size(handle, LIBNBD_SIZE_PREFERRED);
    if (bytes < 0 || smallest < 0 || preferred < 0) return nbd_failure(errc::unsupported);
    served.bytes = static_cast<std::uint64_t>(bytes);
    if (smallest > 0) served.block_min = static_cast<std::uint64_t>(smallest);
    if (preferred > 0) served.block_preferred = static_cast<std::uint64_t>(preferred);
    served.flags = NBD_FLAG_HAS_FLAGS;
    const auto add = [&served](int can, std::uint64_t flag) {
        if (can == 1) served.flags |= flag;
        return can >= 0;
    };
    if (!add(nbd_is_read_only(handle), NBD_FLAG_READ_ONLY) || !add(nbd_can_flush(handle), NBD_FLAG_SEND_FLUSH) ||
        !add(nbd_can_fua(handle), NBD_FLAG_SEND_FUA) || !add(nbd_can_trim(handle), NBD_FLAG_SEND_TRIM) ||
        !add(nbd_can_multi_conn(handle), NBD_FLAG_CAN_MULTI_CONN) || !add(nbd_can_zero(handle), flag_write_zeroes))
        return nbd_failure(errc::unsupported);
    return served;
}

/// Our own descriptor of libnbd's connection, blocking as the driver's sockets usually are.
result<unique_fd> take_socket(nbd_handle* handle) {
    unique_fd mine{::fcntl(nbd_aio_get_fd(handle), F_DUPFD_CLOEXEC, 3)};
    if (!mine) return errno_error(errno, "duplicate the connection's descriptor");
    const int mode = ::fcntl(mine.get(), F_GETFL);
    if (mode < 0 || ::fcntl(mine.get(), F_SETFL, mode & ~O_NONBLOCK) != 0)
        return errno_error(errno, "make the connection blocking");
    return mine;
}

result<negotiated_nbd> negotiate(const std::filesystem::path& socket, const std::string& export_name,
                                 milliseconds timeout) {
    const handle_ptr handle{nbd_create()};
    if (!handle || nbd_set_export_name(handle.get(), export_name.c_str()) != 0 ||
        nbd_set_request_structured_replies(handle.get(), false) != 0 ||
        nbd_set_tls(handle.get(), LIBNBD_TLS_DISABLE) != 0)
        return nbd_failure(errc::unsupported);
    if (nbd_aio_connect_unix(handle.get(), socket.c_str()) != 0) return nbd_failure(errc::unavailable);
    TRY(wait_until_ready(handle.get(), timeout));
    const char* const protocol = nbd_get_protocol(handle.get());
    if (protocol == nullptr || std::string_view{protocol} != "newstyle-fixed")
        return error{errc::unsupported, fmt::format("the server speaks the {} protocol, not fixed newstyle",
                                                    protocol != nullptr ? protocol : "unknown")};
    if (nbd_get_structured_replies_negotiated(handle.get()) != 0)
        return error{errc::unsupported, "the server insists on structured replies, which no kernel understands"};
    negotiated_nbd done;
    TRY_ASSIGN(done.served, read_export(handle.get()));
    TRY_ASSIGN(done.socket, take_socket(handle.get()));
    return done;
}

}  // namespace

result<negotiated_nbd> negotiate_nbd(const std::filesystem::path& socket, const std::string& export_name,
                                     milliseconds timeout) {
    if (socket.native().size() >= sizeof(sockaddr_un::sun_path))
        return error{errc::invalid_argument, fmt::format("'{}' is longer than a socket's path may be ({} bytes)",
                                                         socket.native(), sizeof(sockaddr_un::sun_path) - 1)};
    if (export_name.size() > export_name_max || export_name.find('\0') != std::string::npos)
        return error{errc::invalid_argument, "an export name has at most 4096 bytes, none of them zero"};
    auto done = negotiate(socket, export_name, timeout);
    if (done.has_error())
        return done.error().within(fmt::format("connect to the NBD export '{}' at {}", export_name, socket.native()));
    return done;
}

}  // namespace weft
