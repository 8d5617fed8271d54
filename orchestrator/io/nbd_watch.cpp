// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_watch.hpp"

#include <fmt/format.h>
#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/nbd_netlink.hpp"

namespace weft {

namespace {

struct socket_closer {
    void operator()(nl_sock* socket) const noexcept { nl_socket_free(socket); }
};
using socket_ptr = std::unique_ptr<nl_sock, socket_closer>;

error netlink_failed(const char* what, int failure) {
    return {errc::unavailable, fmt::format("{}: {}", what, nl_geterror(failure))};
}

result<socket_ptr> join_group() {
    socket_ptr socket{nl_socket_alloc()};
    if (!socket) return errno_error(ENOMEM, "open a netlink socket");
    if (const int failure = genl_connect(socket.get()); failure < 0)
        return netlink_failed("open a generic netlink socket", failure);
    const int group = genl_ctrl_resolve_grp(socket.get(), NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME);
    if (group == -NLE_OBJ_NOTFOUND) return nbd_not_available();
    if (group < 0) return netlink_failed("ask the kernel for the nbd driver's events", group);
    nl_socket_disable_seq_check(socket.get());  // events answer no question of ours
    if (const int failure = nl_socket_add_membership(socket.get(), group); failure < 0)
        return netlink_failed("listen to the nbd driver's events", failure);
    if (const int failure = nl_socket_set_nonblocking(socket.get()); failure < 0)
        return netlink_failed("listen to the nbd driver's events", failure);
    return socket;
}

}  // namespace

class nbd_watch::impl {
public:
    impl(socket_ptr socket, callback on_link_dead)
        : socket_(std::move(socket)), on_link_dead_(std::move(on_link_dead)), stop_(::eventfd(0, EFD_CLOEXEC)) {
        INVARIANT(stop_, "nbd_watch: eventfd: errno {}", errno);
        nl_socket_modify_cb(socket_.get(), NL_CB_VALID, NL_CB_CUSTOM, on_message, this);
        thread_ = std::thread{[this] { loop(); }};
    }
    ~impl() {
        INVARIANT(std::this_thread::get_id() != thread_.get_id(), "nbd_watch destroyed by its own callback");
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto n = ::write(stop_.get(), &one, sizeof one);
        thread_.join();
    }

private:
    static int on_message(nl_msg* message, void* self) {
        auto* const header = static_cast<genlmsghdr*>(nlmsg_data(nlmsg_hdr(message)));
        std::array<nlattr*, NBD_ATTR_MAX + 1> attributes{};
        if (header->cmd == NBD_CMD_LINK_DEAD &&
            nla_parse(attributes.data(), NBD_ATTR_MAX, genlmsg_attrdata(header, 0), genlmsg_attrlen(header, 0),
                      nullptr) == 0 &&
            attributes[NBD_ATTR_INDEX] != nullptr)
            static_cast<impl*>(self)->on_link_dead_(static_cast<int>(nla_get_u32(attributes[NBD_ATTR_INDEX])));
        return NL_OK;
    }

    void loop() {
        on_link_dead_(std::nullopt);
        for (;;) {
            std::array<pollfd, 2> waiting{pollfd{stop_.get(), POLLIN, 0},
                                          pollfd{nl_socket_get_fd(socket_.get()), POLLIN, 0}};
            if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;  // EINTR
            if (waiting[0].revents != 0) return;
            const int failure = nl_recvmsgs_default(socket_.get());
            // ENOBUFS, which libnl calls NLE_NOMEM: the kernel had to drop events that did not fit into our socket.
            if (failure < 0 && failure != -NLE_AGAIN && failure != -NLE_INTR) on_link_dead_(std::nullopt);
        }
    }

    const socket_ptr socket_;
    const callback on_link_dead_;
    const unique_fd stop_;
    std::thread thread_;
};

nbd_watch::nbd_watch(std::unique_ptr<impl> made) : impl_(std::move(made)) {}
nbd_watch::~nbd_watch() = default;

result<std::unique_ptr<nbd_watch>> nbd_watch::start(callback on_link_dead) {
    TRY_ASSIGN(auto socket, join_group());
    return std::unique_ptr<nbd_watch>(
        new nbd_watch(std::make_unique<impl>(std::move(socket), std::move(on_link_dead))));
}

}  // namespace weft
