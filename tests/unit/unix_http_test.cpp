// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/unix_http.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "fake_service.hpp"
#include "orchestrator/api/admin.hpp"
#include "orchestrator/api/docker_volume.hpp"
#include "orchestrator/io/unix_http_client.hpp"
#include "orchestrator/io/unix_listen.hpp"

using namespace weft;
using namespace std::chrono_literals;
using weft::testing::fake_service;

namespace {

class temporary_folder {
public:
    temporary_folder() {
        char pattern[] = "/tmp/weft-unit-XXXXXX";
        REQUIRE(::mkdtemp(pattern) != nullptr);
        path_ = pattern;
    }
    ~temporary_folder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// A client that sends exactly the bytes that a test says.
class raw_client {
public:
    explicit raw_client(const std::string& path) {
        auto fd = connect_unix(path, 5000);
        REQUIRE(fd.has_value());
        fd_ = *fd;
    }
    ~raw_client() { ::close(fd_); }
    raw_client(const raw_client&) = delete;
    raw_client& operator=(const raw_client&) = delete;

    /// False: the server stopped reading.
    bool send(std::string_view bytes) {
        while (!bytes.empty()) {
            const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }

    /// Reads until `end` was seen or the server closed.
    std::string read_until(std::string_view end) {
        std::string all;
        char part[4096];
        while (all.find(end) == std::string::npos) {
            const auto got = ::recv(fd_, part, sizeof part, 0);
            if (got <= 0) break;
            all.append(part, static_cast<std::size_t>(got));
        }
        return all;
    }

    /// True if the server closes within the time without sending anything.
    bool closed_within(std::chrono::milliseconds patience) {
        pollfd waiting{fd_, POLLIN, 0};
        if (::poll(&waiting, 1, static_cast<int>(patience.count())) != 1) return false;
        char byte = 0;
        return ::recv(fd_, &byte, 1, 0) <= 0;
    }

private:
    int fd_ = -1;
};

http_response echo(const http_request& request) {
    if (request.target == "/drop") return http_response::dropped();
    if (request.target == "/throw") throw std::runtime_error("a handler must not");
    return {200, "text/plain", request.method + " " + request.target + " " + request.body + ".", false};
}

unix_http_options options_at(const std::string& path) {
    unix_http_options options;
    options.path = path;
    return options;
}

std::unique_ptr<unix_http_server> serve(unix_http_options options, http_handler handler = echo) {
    auto server = unix_http_server::listen(std::move(options), std::move(handler), docker_volume::refusal);
    if (server.has_error()) FAIL(server.error().text);
    return std::move(*server);
}

result<http_response> call(const std::string& path, const std::string& target, const std::string& body = "") {
    return unix_http_call(path, {"POST", target, body}, 20s);
}

error refused(unix_http_options options) {
    auto server = unix_http_server::listen(std::move(options), echo, docker_volume::refusal);
    REQUIRE(server.has_error());
    return server.error();
}

}  // namespace

TEST_CASE("unix_http: a request's method, target and body reach the handler, its answer the client") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "new/deep/s.sock"));
    const auto answer = call(folder / "new/deep/s.sock", "/a%2Fb?c=1", "{\"x\":1}");
    REQUIRE(answer.has_value());
    CHECK(answer->status == 200);
    CHECK(answer->content_type == "text/plain");
    CHECK(answer->body == "POST /a%2Fb?c=1 {\"x\":1}.");
}

TEST_CASE("unix_http: dockerd's empty Host without Content-Type is served, and the connection is kept") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    raw_client docker(folder / "s.sock");
    for (int i = 0; i < 3; ++i) {
        docker.send("POST /VolumeDriver.Get HTTP/1.1\r\nHost: \r\nContent-Length: 2\r\n\r\n{}");
        CHECK(docker.read_until("{}.").find("POST /VolumeDriver.Get {}.") != std::string::npos);
    }
    docker.send("POST /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\n\r\n");  // two at once, no Host at all
    CHECK(docker.read_until("POST /b .").find("POST /a .") != std::string::npos);
}

TEST_CASE("unix_http: chunked bodies and Expect: 100-continue are understood") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    raw_client client(folder / "s.sock");
    client.send("POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    CHECK(client.read_until("abcde.").find("POST /c abcde.") != std::string::npos);
    client.send("POST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    CHECK(client.read_until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("xyz");
    CHECK(client.read_until("xyz.").find("POST /e xyz.") != std::string::npos);
}

TEST_CASE("unix_http: a dropped request is a closed connection without a byte") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    for (const char* target : {"/drop", "/throw"}) {
        raw_client client(folder / "s.sock");
        client.send(fmt::format("POST {} HTTP/1.1\r\n\r\n", target));
        CHECK(client.read_until("never") == "");
        const auto answer = call(folder / "s.sock", target);
        REQUIRE(answer.has_error());
        CHECK(answer.error().code == errc::outcome_unknown);
    }
}

TEST_CASE("unix_http: slow mounts on dozens of connections delay nobody") {
    const temporary_folder folder;
    fake_service served;
    served.volumes.emplace("db", weft::testing::sample_volume("db"));
    served.hold_mounts();
    const docker_volume face(served);
    const auto server =
        serve(options_at(folder / "s.sock"), [&](const http_request& request) { return face.handle(request); });
    constexpr std::size_t many = 60;
    std::atomic<std::size_t> mounted{0};
    std::vector<std::thread> mounts;
    for (std::size_t i = 0; i < many; ++i)
        mounts.emplace_back([&] {
            const auto answer = call(folder / "s.sock", "/VolumeDriver.Mount", R"({"Name":"db","ID":"1"})");
            if (answer.has_value() && answer->status == 200) ++mounted;
        });
    served.await_held(many);
    for (int i = 0; i < 20; ++i) {
        const auto got = call(folder / "s.sock", "/VolumeDriver.Get", R"({"Name":"db"})");
        REQUIRE(got.has_value());
        CHECK(got->status == 200);
    }
    CHECK(mounted == 0);
    served.let_go();
    for (auto& thread : mounts) thread.join();
    CHECK(mounted == many);
}

TEST_CASE("unix_http: a body of 100 MB is answered 413 with JSON, not kept, and the connection closed") {
    const temporary_folder folder;
    std::atomic<int> handled{0};
    const auto server = serve(options_at(folder / "s.sock"), [&](const http_request& request) {
        ++handled;
        return echo(request);
    });
    rusage before{};
    ::getrusage(RUSAGE_SELF, &before);
    for (const bool announced : {true, false}) {
        CAPTURE(announced);
        raw_client client(folder / "s.sock");
        client.send(announced ? "POST /x HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n"
                              : "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n");
        const std::string part(1000000, 'a');
        for (int i = 0; i < 100; ++i) CHECK(client.send(part));
        const std::string answer = client.read_until("never");
        CHECK(answer.starts_with("HTTP/1.1 413 "));
        CHECK(answer.find(R"({"Err":"the request's body is larger than the 1048576 bytes that are accepted"})") !=
              std::string::npos);
        CHECK(answer.find("Connection: close") != std::string::npos);
    }
    CHECK(handled == 0);
    rusage after{};
    ::getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_maxrss - before.ru_maxrss < 50 * 1024);  // KiB
}

TEST_CASE("unix_http: what is not HTTP and headers without end are refused") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    raw_client nonsense(folder / "s.sock");
    nonsense.send("\x16\x03\x01 is a TLS client\r\n\r\n");
    const std::string answer = nonsense.read_until("never");
    CHECK(answer.starts_with("HTTP/1.1 400 "));
    CHECK(answer.find("this is not an HTTP request") != std::string::npos);
    for (const std::string start : {"POST /x HTTP/1.1\r\nX: ", "POST /"}) {
        raw_client endless(folder / "s.sock");
        endless.send(start);
        endless.send(std::string(100000, 'h'));
        CHECK(endless.read_until("never").starts_with("HTTP/1.1 431 "));
    }
}

TEST_CASE("unix_http: a request that does not arrive in time and a connection without requests are closed") {
    const temporary_folder folder;
    auto options = options_at(folder / "s.sock");
    options.transfer_timeout = 200ms;
    options.idle_timeout = 400ms;
    const auto server = serve(options);
    raw_client half(folder / "s.sock");
    raw_client silent(folder / "s.sock");
    half.send("POST /x HT");
    CHECK(half.closed_within(5s));
    CHECK(silent.closed_within(5s));
}

TEST_CASE("unix_http: at the limit the connection that is idle for longest makes room") {
    const temporary_folder folder;
    auto options = options_at(folder / "s.sock");
    options.connections_max = 3;
    const auto server = serve(options);
    std::vector<std::unique_ptr<raw_client>> idle;
    for (int i = 0; i < 3; ++i) {
        idle.push_back(std::make_unique<raw_client>(folder / "s.sock"));
        idle.back()->send("POST /x HTTP/1.1\r\n\r\n");
        CHECK(idle.back()->read_until("/x .").starts_with("HTTP/1.1 200 "));
    }
    const auto answer = call(folder / "s.sock", "/fourth");
    REQUIRE(answer.has_value());
    CHECK(idle[0]->closed_within(5s));
    idle[2]->send("POST /y HTTP/1.1\r\n\r\n");
    CHECK(idle[2]->read_until("/y .").starts_with("HTTP/1.1 200 "));
}

TEST_CASE("unix_http: when all connections are at work, the next one waits for the first that ends") {
    const temporary_folder folder;
    fake_service served;
    served.hold_mounts();
    const docker_volume face(served);
    auto options = options_at(folder / "s.sock");
    options.connections_max = 2;
    const auto server = serve(options, [&](const http_request& request) { return face.handle(request); });
    std::vector<std::thread> mounts;
    for (int i = 0; i < 2; ++i)
        mounts.emplace_back(
            [&] { CHECK(call(folder / "s.sock", "/VolumeDriver.Mount", R"({"Name":"db","ID":"1"})").has_value()); });
    served.await_held(2);
    raw_client waits(folder / "s.sock");
    waits.send("POST /VolumeDriver.Capabilities HTTP/1.1\r\n\r\n");
    CHECK_FALSE(waits.closed_within(200ms));
    served.let_go();
    CHECK(waits.read_until("global").find("global") != std::string::npos);
    for (auto& thread : mounts) thread.join();
}

TEST_CASE("unix_http: without a free descriptor it waits quietly and goes on when there is one") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    raw_client waits(folder / "s.sock");  // may be accepted before the limit; the next one is not
    rlimit old{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
    const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);  // made before there are none left
    const rlimit none{0, old.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = folder / "s.sock";
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const bool connected = ::connect(probe, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    rusage before{}, after{};
    ::getrusage(RUSAGE_SELF, &before);
    std::this_thread::sleep_for(500ms);  // what is measured: the time that it burns meanwhile
    ::getrusage(RUSAGE_SELF, &after);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK(connected);
    const auto microseconds = [](const rusage& usage) {
        return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
               usage.ru_stime.tv_usec;
    };
    CHECK(microseconds(after) - microseconds(before) < 100000);
    const std::string_view request = "POST /x HTTP/1.1\r\n\r\n";
    CHECK(::send(probe, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()));
    char answer[64] = {};
    CHECK(::recv(probe, answer, sizeof answer - 1, 0) > 0);
    CHECK(std::string(answer).starts_with("HTTP/1.1 200 "));
    ::close(probe);
}

TEST_CASE("unix_http: the socket has its mode from the start and is gone after stop") {
    const temporary_folder folder;
    auto options = options_at(folder / "s.sock");
    options.mode = 0660;
    options.group = "no-such-group-on-any-machine";
    const auto server = serve(options);
    struct stat found {};
    REQUIRE(::lstat((folder / "s.sock").c_str(), &found) == 0);
    CHECK((found.st_mode & 07777) == 0660);
    server->stop();
    CHECK(::lstat((folder / "s.sock").c_str(), &found) != 0);
    const auto answer = call(folder / "s.sock", "/x");
    REQUIRE(answer.has_error());
    CHECK(answer.error().code == errc::unavailable);
    server->stop();
}

TEST_CASE("unix_http: a stale socket file is replaced, a living one is not") {
    const temporary_folder folder;
    auto bound = listen_unix(folder / "s.sock", 0600, "", "weftd");
    REQUIRE(bound.has_value());
    const error busy = refused(options_at(folder / "s.sock"));
    CHECK(busy.code == errc::busy);
    CHECK(busy.text.find("another weftd is listening on '") != std::string::npos);
    ::close(bound->fd);  // as kill -9 leaves it: the file stays
    const auto answer = call(folder / "s.sock", "/x");
    REQUIRE(answer.has_error());
    CHECK(answer.error().text.find("nobody listens there") != std::string::npos);
    const auto server = serve(options_at(folder / "s.sock"));
    CHECK(call(folder / "s.sock", "/x").has_value());
}

TEST_CASE("unix_http: of many starters on a stale socket exactly one wins") {
    const temporary_folder folder;
    for (int round = 0; round < 20; ++round) {
        const std::string path = folder / fmt::format("{}.sock", round);
        auto stale = listen_unix(path, 0600, "", "weftd");
        REQUIRE(stale.has_value());
        ::close(stale->fd);
        std::atomic<int> winner{-1}, winners{0};
        std::vector<std::thread> starters;
        for (int i = 0; i < 4; ++i)
            starters.emplace_back([&] {
                auto mine = listen_unix(path, 0600, "", "weftd");
                if (mine.has_error()) return;
                winner = mine->fd;
                ++winners;
            });
        for (auto& thread : starters) thread.join();
        CHECK(winners == 1);
        CHECK(connect_unix(path, 1000).has_value());
        ::close(winner);
    }
}

TEST_CASE("unix_http: a socket that somebody else put in our place is not removed") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    REQUIRE(::unlink((folder / "s.sock").c_str()) == 0);
    const auto other = serve(options_at(folder / "s.sock"));
    server->stop();
    CHECK(call(folder / "s.sock", "/x").has_value());
}

TEST_CASE("unix_http: paths that cannot be a socket are refused with the reason") {
    const temporary_folder folder;
    std::ofstream(folder / "file") << "precious";
    const error file = refused(options_at(folder / "file"));
    CHECK(file.code == errc::already_exists);
    CHECK(file.text.find("exists and is not a socket") != std::string::npos);
    CHECK(std::filesystem::file_size(folder / "file") == 8);
    CHECK(refused(options_at(folder / std::string(120, 'l'))).text.find("the kernel takes at most 107") !=
          std::string::npos);
    CHECK(refused(options_at("relative.sock")).text.find("must be absolute") != std::string::npos);
    CHECK(refused(options_at(folder / "file/s.sock")).text.find("create folder") != std::string::npos);
}

TEST_CASE("unix_http: stop lets a running call finish and its answer go out") {
    const temporary_folder folder;
    fake_service served;
    served.hold_mounts();
    const docker_volume face(served);
    auto server = serve(options_at(folder / "s.sock"), [&](const http_request& r) { return face.handle(r); });
    std::atomic<unsigned> got{0};
    std::thread client([&] {
        const auto answer = call(folder / "s.sock", "/VolumeDriver.Mount", R"({"Name":"db","ID":"1"})");
        if (answer.has_value()) got = answer->status;
    });
    raw_client idle(folder / "s.sock");
    served.await_held(1);
    std::thread stopper([&] { server->stop(); });
    CHECK(idle.closed_within(5s));
    served.let_go();
    stopper.join();
    client.join();
    CHECK(got == 200);
}

TEST_CASE("unix_http: whoever wants to know hears once whether the answer was taken") {
    const temporary_folder folder;
    fake_service served;
    const docker_volume face(served);
    const auto handler = [&](const http_request& request) { return face.handle(request); };
    auto server = serve(options_at(folder / "s.sock"), handler);
    REQUIRE(call(folder / "s.sock", "/VolumeDriver.Mount", R"({"Name":"db","ID":"1"})").has_value());
    server->stop();
    CHECK(served.calls() == std::vector<std::string>{"mount db 1", "answered db 1"});

    server = serve(options_at(folder / "s.sock"), handler);
    served.hold_mounts();
    {
        raw_client gone(folder / "s.sock");
        gone.send("POST /VolumeDriver.Mount HTTP/1.1\r\nContent-Length: 22\r\n\r\n{\"Name\":\"db\",\"ID\":\"2\"}");
        served.await_held(1);
    }
    served.let_go();
    server->stop();
    CHECK(served.calls() == std::vector<std::string>{"mount db 1", "answered db 1", "mount db 2", "unanswered db 2"});
}

TEST_CASE("unix_http: the client says what went wrong") {
    const temporary_folder folder;
    const auto nobody = call(folder / "s.sock", "/x");
    REQUIRE(nobody.has_error());
    CHECK(nobody.error().code == errc::unavailable);
    CHECK(nobody.error().text.find("no such socket; is weftd running?") != std::string::npos);

    fake_service served;
    served.hold_mounts();
    const docker_volume face(served);
    const auto server = serve(options_at(folder / "s.sock"), [&](const http_request& r) { return face.handle(r); });
    const auto late =
        unix_http_call(folder / "s.sock", {"POST", "/VolumeDriver.Mount", R"({"Name":"db","ID":"1"})"}, 100ms);
    REQUIRE(late.has_error());
    CHECK(late.error().code == errc::timed_out);
    served.let_go();
}

TEST_CASE("unix_http: the client reads the refusal of a body that the server does not want") {
    const temporary_folder folder;
    const auto server = serve(options_at(folder / "s.sock"));
    const auto answer = call(folder / "s.sock", "/x", std::string(50 * 1024 * 1024, 'b'));
    REQUIRE(answer.has_value());
    CHECK(answer->status == 413);
}
