// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/control_client.hpp"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "orchestrator/io/atomic_file.hpp"

using namespace weft;
using namespace std::chrono_literals;

namespace {

/// The volume server's end of the socket, as blunt as a test wants it.
class fake_server {
public:
    explicit fake_server(const std::filesystem::path& path)
        : listener_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.native().size());
        REQUIRE(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(listener_.get(), 4) == 0);
    }
    void accept() {
        peer_ = unique_fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
        REQUIRE(peer_);
        timeval patience{5, 0};
        ::setsockopt(peer_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    void say(std::string_view bytes) const {
        REQUIRE(::send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
    }
    std::string hear_line() const {
        std::string line;
        char c = 0;
        while (::read(peer_.get(), &c, 1) == 1 && c != '\n') line += c;
        return line;
    }
    [[nodiscard]] bool peer_closed() const {
        char c = 0;
        return ::read(peer_.get(), &c, 1) == 0;
    }
    void hang_up() { peer_.reset(); }
    /// Waits longer than a client pauses between two attempts.
    [[nodiscard]] bool another_came() const {
        pollfd waiting{listener_.get(), POLLIN, 0};
        return ::poll(&waiting, 1, 200) != 0;
    }

private:
    unique_fd listener_, peer_;
};

/// What the client told, with waiting.
struct listener {
    std::mutex mutex;
    std::condition_variable told;
    std::vector<bool> connections;
    std::vector<core::control_message> messages;

    control_client::callbacks handlers() {
        return {[this](bool up) {
                    const std::lock_guard lock{mutex};
                    connections.push_back(up);
                    told.notify_all();
                },
                [this](core::control_message message) {
                    const std::lock_guard lock{mutex};
                    messages.push_back(std::move(message));
                    told.notify_all();
                }};
    }
    bool wait(const std::function<bool()>& condition) {
        std::unique_lock lock{mutex};
        return told.wait_for(lock, 5s, condition);
    }
};

struct scratch {
    std::filesystem::path path;
    scratch() {
        std::string name = "/tmp/weft-control-XXXXXX";
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~scratch() { CHECK(remove_directory_tree(path).has_value()); }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
};

}  // namespace

TEST_CASE("control_client: waits for the socket, speaks both ways, in whatever pieces the bytes come") {
    const scratch where;
    listener heard;
    control_client client{where.path / "control.sock", heard.handlers()};
    CHECK_FALSE(client.send(core::get_status_message{}));
    fake_server server{where.path / "control.sock"};
    server.accept();
    CHECK(heard.wait([&] { return heard.connections == std::vector<bool>{true}; }));
    CHECK(client.connected());
    const std::string line = core::encode_control(core::detached_message{}) + "\n";
    for (const char c : line) server.say(std::string(1, c));
    server.say(line + line);
    CHECK(heard.wait([&] { return heard.messages.size() == 3; }));
    CHECK(client.send(core::result_message{7, core::proposal_outcome::committed, "done"}));
    CHECK(client.send(core::detach_message{}));
    CHECK(server.hear_line() ==
          core::encode_control(core::result_message{7, core::proposal_outcome::committed, "done"}));
    CHECK(server.hear_line() == core::encode_control(core::detach_message{}));
}

TEST_CASE("control_client: comes back after a loss, told once each way") {
    const scratch where;
    listener heard;
    fake_server server{where.path / "control.sock"};
    control_client client{where.path / "control.sock", heard.handlers()};
    for (std::size_t round = 1; round <= 3; ++round) {
        server.accept();
        CHECK(heard.wait([&] { return heard.connections.size() == 2 * round - 1; }));
        server.hang_up();
        CHECK(heard.wait([&] { return heard.connections.size() == 2 * round; }));
    }
    CHECK(heard.connections == std::vector<bool>{true, false, true, false, true, false});
}

TEST_CASE("control_client: one that is retired leaves the place to another") {
    const scratch where;
    fake_server server{where.path / "control.sock"};
    listener first, second;
    control_client retired{where.path / "control.sock", first.handlers()};
    server.accept();
    REQUIRE(first.wait([&] { return first.connections == std::vector<bool>{true}; }));
    retired.retire();
    CHECK(server.peer_closed());
    CHECK(first.wait([&] { return first.connections == std::vector<bool>{true, false}; }));
    server.hang_up();
    control_client next{where.path / "control.sock", second.handlers()};
    server.accept();
    REQUIRE(second.wait([&] { return second.connections == std::vector<bool>{true}; }));
    CHECK_FALSE(retired.send(core::get_status_message{}));
    CHECK(next.send(core::get_status_message{}));
    CHECK(server.hear_line() == core::encode_control(core::get_status_message{}));
    CHECK_FALSE(server.another_came());
}

TEST_CASE("control_client: a peer that speaks nonsense or never ends its line is not ours") {
    const scratch where;
    for (const std::string& nonsense : {std::string("hello\n"), std::string("{\"type\":\"no-such\"}\n"),
                                        std::string("\n"), std::string(core::control_line_max + 2, ' ')}) {
        const auto path = where.path / "control.sock";
        REQUIRE(remove_file(path).has_value());
        listener heard;
        fake_server server{path};
        control_client client{path, heard.handlers()};
        server.accept();
        server.say(nonsense);
        CHECK(server.peer_closed());
        CHECK(heard.wait([&] { return heard.connections.size() >= 2; }));
        CHECK(heard.messages.empty());
    }
}

TEST_CASE("control_client: a peer that does not read cannot make send wait") {
    const scratch where;
    listener heard;
    fake_server server{where.path / "control.sock"};
    control_client client{where.path / "control.sock", heard.handlers()};
    server.accept();
    CHECK(heard.wait([&] { return !heard.connections.empty(); }));
    const core::result_message large{1, core::proposal_outcome::refused, std::string(500000, 'x')};
    int sent = 0;
    while (client.send(large) && sent < 1000) ++sent;
    CHECK(sent >= 8);
    CHECK(sent < 1000);
    CHECK(heard.wait([&] { return heard.connections.size() == 2; }));  // given up
    server.accept();                                                   // and opened anew
    CHECK(heard.wait([&] { return heard.connections.size() == 3; }));
}

TEST_CASE("control_client: ends at once, connected, waiting for the socket, or with no directory at all") {
    const scratch where;
    const auto before = std::chrono::steady_clock::now();
    {
        listener heard;
        const control_client absent{where.path / "control.sock", heard.handlers()};
        const control_client nowhere{where.path / "no" / "control.sock", heard.handlers()};
    }
    {
        listener heard;
        fake_server server{where.path / "control.sock"};
        const control_client client{where.path / "control.sock", heard.handlers()};
        server.accept();
    }
    CHECK(std::chrono::steady_clock::now() - before < 3s);
}
