// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_netlink.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

struct message_closer {
    void operator()(nl_msg* message) const noexcept { nlmsg_free(message); }
};
struct callback_closer {
    void operator()(nl_cb* callbacks) const noexcept { nl_cb_put(callbacks); }
};
using message_ptr = std::unique_ptr<nl_msg, message_closer>;
using callback_ptr = std::unique_ptr<nl_cb, callback_closer>;

/// What the kernel answered to one command.
struct answer {
    bool complete = false;
    int os_errno = 0;  // 0: done
    std::optional<int> index;
    std::optional<bool> configured;
};

/// A command under construction. A failure to append is remembered, so that it is asked about once, at the end.
class command {
public:
    command(int family, std::uint8_t number) : message_(nlmsg_alloc()) {
        failed_ = !message_ || genlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, number,
                                           NBD_GENL_VERSION) == nullptr;
    }
    void add_u32(int type, std::uint32_t value) { failed_ = failed_ || nla_put_u32(message_.get(), type, value) != 0; }
    void add_u64(int type, std::uint64_t value) { failed_ = failed_ || nla_put_u64(message_.get(), type, value) != 0; }
    void add_text(int type, const std::string& value) {
        failed_ = failed_ || nla_put_string(message_.get(), type, value.c_str()) != 0;
    }
    void add_sockets(const std::vector<int>& sockets) {
        nlattr* const list = failed_ ? nullptr : nla_nest_start(message_.get(), NBD_ATTR_SOCKETS);
        failed_ = list == nullptr;
        for (const int socket : sockets) {
            nlattr* const item = failed_ ? nullptr : nla_nest_start(message_.get(), NBD_SOCK_ITEM);
            failed_ =
                item == nullptr || nla_put_u32(message_.get(), NBD_SOCK_FD, static_cast<std::uint32_t>(socket)) != 0;
            if (!failed_) nla_nest_end(message_.get(), item);
        }
        if (!failed_) nla_nest_end(message_.get(), list);
    }
    [[nodiscard]] nl_msg* message() const { return failed_ ? nullptr : message_.get(); }

private:
    message_ptr message_;
    bool failed_;
};

int on_reply(nl_msg* message, void* into) {
    auto& got = *static_cast<answer*>(into);
    auto* const header = static_cast<genlmsghdr*>(nlmsg_data(nlmsg_hdr(message)));
    std::array<nlattr*, NBD_ATTR_MAX + 1> attributes{};
    if (nla_parse(attributes.data(), NBD_ATTR_MAX, genlmsg_attrdata(header, 0), genlmsg_attrlen(header, 0), nullptr) !=
        0)
        return NL_SKIP;
    if (attributes[NBD_ATTR_INDEX] != nullptr) got.index = static_cast<int>(nla_get_u32(attributes[NBD_ATTR_INDEX]));
    if (attributes[NBD_ATTR_DEVICE_LIST] != nullptr) {
        std::array<nlattr*, NBD_DEVICE_ITEM_MAX + 1> list{};
        std::array<nlattr*, NBD_DEVICE_ATTR_MAX + 1> device{};
        if (nla_parse_nested(list.data(), NBD_DEVICE_ITEM_MAX, attributes[NBD_ATTR_DEVICE_LIST], nullptr) == 0 &&
            list[NBD_DEVICE_ITEM] != nullptr &&
            nla_parse_nested(device.data(), NBD_DEVICE_ATTR_MAX, list[NBD_DEVICE_ITEM], nullptr) == 0 &&
            device[NBD_DEVICE_CONNECTED] != nullptr)
            got.configured = nla_get_u8(device[NBD_DEVICE_CONNECTED]) != 0;
    }
    return NL_OK;
}

int on_done(nl_msg* /*message*/, void* into) {
    static_cast<answer*>(into)->complete = true;
    return NL_STOP;
}

/// libnl's own error codes merge several errnos; the kernel's number is what tells a taken socket from a refused one.
int on_error(sockaddr_nl* /*from*/, nlmsgerr* why, void* into) {
    auto& got = *static_cast<answer*>(into);
    got.complete = true;
    got.os_errno = -why->error;
    return NL_STOP;
}

/// Receives until the acknowledgement. The kernel queued it before our send returned, so this never waits.
result<answer> receive(nl_sock* socket) {
    answer got;
    const callback_ptr callbacks{nl_cb_alloc(NL_CB_DEFAULT)};
    if (!callbacks) return errno_error(ENOMEM, "receive from netlink");
    nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, on_reply, &got);
    nl_cb_set(callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM, on_done, &got);
    nl_cb_err(callbacks.get(), NL_CB_CUSTOM, on_error, &got);
    while (!got.complete)
        if (const int failure = nl_recvmsgs(socket, callbacks.get()); failure < 0 && !got.complete)
            return error{errc::outcome_unknown,
                         fmt::format("the answer of the nbd driver was lost ({}); look at what is "
                                     "connected before trying again",
                                     nl_geterror(failure))};
    return got;
}

result<answer> exchange(nl_sock* socket, const command& what) {
    if (what.message() == nullptr) return errno_error(ENOMEM, "make a netlink message");
    if (const int failure = nl_send_auto(socket, what.message()); failure < 0)
        return error{errc::io_failed, fmt::format("send to the nbd driver: {}", nl_geterror(failure))};
    return receive(socket);
}

/// The kernel says EINVAL for "no such index", "another mark" and "not connected any more" alike
/// (nbd_genl_reconfigure).
status reconfigured(int os_errno, int index) {
    if (os_errno == 0) return ok();
    if (os_errno == EINVAL)
        return error{
            errc::not_found, EINVAL,
            fmt::format("/dev/nbd{} cannot be reconfigured: it is not connected for this extent any more, or it was "
                        "disconnected and is still held open",
                        index)};
    return errno_error(os_errno, fmt::format("reconfigure /dev/nbd{}", index));
}

struct packet {
    const void* bytes;
    std::size_t count;
};

int send_packet(int socket, const void* what) {
    const auto& data = *static_cast<const packet*>(what);
    return ::send(socket, data.bytes, data.count, 0) >= 0 ? 0 : errno;  // to the kernel: an unbound netlink peer is 0
}

}  // namespace

error nbd_not_available() {
    return {
        errc::unavailable,
        "this kernel has no nbd driver now: run 'modprobe nbd' (Debian's standard and cloud kernels have the module) "
        "or use the portable attach, which needs none"};
}

void nbd_netlink::closer::operator()(nl_sock* socket) const noexcept {
    nl_socket_free(socket);
}

result<nbd_netlink> nbd_netlink::open() {
    socket_ptr socket{nl_socket_alloc()};
    if (!socket) return errno_error(ENOMEM, "open a netlink socket");
    if (const int failure = genl_connect(socket.get()); failure < 0)
        return error{errc::unavailable, fmt::format("open a generic netlink socket: {}", nl_geterror(failure))};
    const int family = genl_ctrl_resolve(socket.get(), NBD_GENL_FAMILY_NAME);
    if (family == -NLE_OBJ_NOTFOUND) return nbd_not_available();
    if (family < 0)
        return error{errc::unavailable, fmt::format("ask the kernel for its nbd driver: {}", nl_geterror(family))};
    return nbd_netlink{std::move(socket), family};
}

result<std::optional<int>> nbd_netlink::connect(const connect_request& what) {
    INVARIANT(!what.sockets.empty() && !what.backend.empty(), "connect an nbd device without sockets or mark");
    command message{family_, NBD_CMD_CONNECT};
    message.add_u64(NBD_ATTR_SIZE_BYTES, what.bytes);
    message.add_u64(NBD_ATTR_BLOCK_SIZE_BYTES, what.block_bytes);
    message.add_u64(NBD_ATTR_SERVER_FLAGS, what.flags);
    // Said although they are defaults: a device keeps what its former user set (nbd_set_cmd_timeout, nbd_genl_connect).
    message.add_u64(NBD_ATTR_TIMEOUT, 0);
    message.add_u64(NBD_ATTR_CLIENT_FLAGS, 0);
    message.add_u64(NBD_ATTR_DEAD_CONN_TIMEOUT, static_cast<std::uint64_t>(what.dead_connection.count()));
    message.add_text(NBD_ATTR_BACKEND_IDENTIFIER, what.backend);
    message.add_sockets(what.sockets);
    TRY_ASSIGN(const answer got, exchange(socket_.get(), message));
    if (got.os_errno != 0) return errno_error(got.os_errno, "connect an nbd device");
    return got.index;
}

result<bool> nbd_netlink::replace_socket(int index, const std::string& backend, int socket) {
    // nbd_genl_reconfigure takes the sockets in order and stops with success at the first that finds no dead one to
    // replace. So a second "socket" that is none tells which happened: ENOTSOCK, it got to the second; 0, it did not.
    const unique_fd no_socket{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
    if (!no_socket) return errno_error(errno, "open /dev/null");
    command message{family_, NBD_CMD_RECONFIGURE};
    message.add_u32(NBD_ATTR_INDEX, static_cast<std::uint32_t>(index));
    message.add_text(NBD_ATTR_BACKEND_IDENTIFIER, backend);
    message.add_sockets({socket, no_socket.get()});
    TRY_ASSIGN(const answer got, exchange(socket_.get(), message));
    if (got.os_errno == ENOTSOCK) return true;
    TRY(reconfigured(got.os_errno, index));
    return false;
}

status nbd_netlink::set_size(int index, const std::string& backend, std::uint64_t bytes) {
    command message{family_, NBD_CMD_RECONFIGURE};
    message.add_u32(NBD_ATTR_INDEX, static_cast<std::uint32_t>(index));
    message.add_text(NBD_ATTR_BACKEND_IDENTIFIER, backend);
    message.add_u64(NBD_ATTR_SIZE_BYTES, bytes);
    TRY_ASSIGN(const answer got, exchange(socket_.get(), message));
    return reconfigured(got.os_errno, index);
}

status nbd_netlink::disconnect(int index, std::chrono::milliseconds timeout) {
    command what{family_, NBD_CMD_DISCONNECT};
    what.add_u32(NBD_ATTR_INDEX, static_cast<std::uint32_t>(index));
    if (what.message() == nullptr) return errno_error(ENOMEM, "make a netlink message");
    nl_complete_msg(socket_.get(), what.message());
    const nlmsghdr* const header = nlmsg_hdr(what.message());
    const packet bytes{header, header->nlmsg_len};
    unique_fd copy{::fcntl(nl_socket_get_fd(socket_.get()), F_DUPFD_CLOEXEC, 3)};
    if (!copy) return errno_error(errno, "duplicate a netlink socket");
    const auto description = fmt::format("disconnect /dev/nbd{}", index);
    if (auto sent = run_isolated({send_packet, &bytes, std::move(copy)}, description, timeout); sent.has_error()) {
        if (sent.error().code != errc::timed_out) return sent;
        return error{errc::timed_out,
                     fmt::format("{}: its server does not read from a full socket; end that server and call again",
                                 sent.error().text)};
    }
    TRY_ASSIGN(const answer got, receive(socket_.get()));
    // EINVAL: there is no device of this index, or it is just being removed. Nothing is connected there.
    if (got.os_errno == 0 || got.os_errno == EINVAL) return ok();
    return errno_error(got.os_errno, description);
}

result<bool> nbd_netlink::is_configured(int index) {
    command message{family_, NBD_CMD_STATUS};
    message.add_u32(NBD_ATTR_INDEX, static_cast<std::uint32_t>(index));
    TRY_ASSIGN(const answer got, exchange(socket_.get(), message));
    if (got.os_errno != 0) return errno_error(got.os_errno, fmt::format("ask for the status of /dev/nbd{}", index));
    return got.configured.value_or(false);  // no item in the list: no such device
}

}  // namespace weft
