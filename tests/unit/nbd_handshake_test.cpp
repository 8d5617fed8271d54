// SPDX-License-Identifier: Apache-2.0
// The connection is given away as the kernel needs it: proved by speaking the driver's own words on it, byte by byte.
#include "orchestrator/io/nbd_handshake.hpp"

#include <doctest/doctest.h>
#include <endian.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "tests/unit/child_process.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace std::chrono_literals;

namespace {

/// A listening unix socket: a client may connect before any server runs, so nothing has to be waited for.
struct listener {
    test::temp_dir directory;
    std::string path = directory.file("nbd.sock");
    unique_fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    listener() {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.data(), path.size());
        REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(fd.get(), 8) == 0);
    }
};

/// nbdkit on that socket, by socket activation (nbdkit-service(1): file descriptor 3, LISTEN_FDS, LISTEN_PID).
test::child_process nbdkit(const listener& socket, std::vector<std::string> arguments) {
    return test::child_process{[&socket, &arguments] {
        ::dup2(socket.fd.get(), 3);
        if (socket.fd.get() == 3) ::fcntl(3, F_SETFD, 0);
        ::setenv("LISTEN_FDS", "1", 1);
        ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
        std::vector<char*> argv;
        arguments.insert(arguments.begin(), {"nbdkit", "-f"});
        for (auto& word : arguments) argv.push_back(word.data());
        argv.push_back(nullptr);
        ::execvp("nbdkit", argv.data());
        return 127;
    }};
}

/// One request as the driver sends it (nbd_send_cmd), and the head of the answer.
nbd_reply ask(int socket, std::uint32_t type, std::uint64_t offset, std::uint32_t length) {
    nbd_request request{};
    request.magic = htobe32(NBD_REQUEST_MAGIC);
    request.type = htobe32(type);
    std::memcpy(request.handle, "WeftTest", 8);
    request.from = htobe64(offset);
    request.len = htobe32(length);
    REQUIRE(::send(socket, &request, sizeof request, MSG_NOSIGNAL) == sizeof request);
    nbd_reply reply{};
    REQUIRE(::recv(socket, &reply, sizeof reply, MSG_WAITALL) == sizeof reply);
    return reply;
}

}  // namespace

TEST_CASE("nbd_handshake: the socket stays a connection that speaks simple replies and has nothing unread") {
    const listener socket;
    auto server = nbdkit(socket, {"memory", "1M"});
    auto done = negotiate_nbd(socket.path, "", 20s);
    if (done.has_error()) FAIL(done.error().text);
    CHECK(done->served.bytes == 1024 * 1024);
    CHECK(done->served.block_preferred == 4096);
    constexpr std::uint64_t all =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_CAN_MULTI_CONN;
    CHECK((done->served.flags & all) == all);
    CHECK((done->served.flags & NBD_FLAG_READ_ONLY) == 0);

    const int fd = done->socket.get();
    char byte = 0;
    CHECK(::recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == -1);
    CHECK(errno == EAGAIN);
    CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
    CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);

    const nbd_reply reply = ask(fd, NBD_CMD_READ, 4096, 512);
    CHECK(be32toh(reply.magic) == NBD_REPLY_MAGIC);
    CHECK(reply.error == 0);
    CHECK(std::memcmp(reply.handle, "WeftTest", 8) == 0);
    std::array<char, 512> data{};
    CHECK(::recv(fd, data.data(), data.size(), MSG_WAITALL) == 512);
    CHECK(ask(fd, NBD_CMD_FLUSH, 0, 0).error == 0);
    CHECK(::recv(fd, &byte, 1, MSG_DONTWAIT) == -1);
}

TEST_CASE("nbd_handshake: a server that cannot write, trim or share says so") {
    const listener socket;
    auto server = nbdkit(socket, {"-r", "--filter=noparallel", "--filter=blocksize-policy", "memory", "1M",
                                  "blocksize-minimum=4096", "blocksize-preferred=8192"});
    const auto done = negotiate_nbd(socket.path, "", 20s);
    if (done.has_error()) FAIL(done.error().text);
    CHECK((done->served.flags & NBD_FLAG_READ_ONLY) != 0);
    CHECK((done->served.flags & NBD_FLAG_SEND_TRIM) == 0);
    CHECK(done->served.block_min == 4096);
    CHECK(done->served.block_preferred == 8192);
}

TEST_CASE("nbd_handshake: nobody there, an unknown export and a silent server are told apart") {
    const test::temp_dir directory;
    const auto nobody = negotiate_nbd(directory.file("none.sock"), "", 1s);
    CHECK(nobody.error().code == errc::unavailable);
    CHECK(nobody.error().text.find("none.sock") != std::string::npos);

    const listener silent;  // accepts, says nothing
    const auto late = negotiate_nbd(silent.path, "", 50ms);
    CHECK(late.error().code == errc::timed_out);

    const listener socket;
    auto server = nbdkit(socket, {"--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=good"});
    const auto refused = negotiate_nbd(socket.path, "bad", 20s);
    CHECK(refused.error().code == errc::unavailable);
    CHECK(refused.error().text.find("'bad'") != std::string::npos);
    CHECK(negotiate_nbd(socket.path, "good", 20s).has_value());
}

TEST_CASE("nbd_handshake: a path or a name that cannot be sent is refused") {
    CHECK(negotiate_nbd(std::string(108, 'x'), "", 1s).error().code == errc::invalid_argument);
    CHECK(negotiate_nbd("/x", std::string(4097, 'x'), 1s).error().code == errc::invalid_argument);
    CHECK(negotiate_nbd("/x", std::string("a\0b", 3), 1s).error().code == errc::invalid_argument);
}
