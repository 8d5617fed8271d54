// SPDX-License-Identifier: Apache-2.0
// Bytes on the plugin socket that are or are not HTTP, in front of the real server, its thread and its handler.
//
// Input: what one client sends before it closes its side. Small limits make the refusals reachable.
// Properties: everything that comes back is one or more HTTP responses, or nothing; whatever a client sends, the next
// one is served; a request that reaches the handler has a method and a target and a body within the limit.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "orchestrator/io/unix_http.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

constexpr std::size_t body_max = 64;
constexpr std::uint32_t header_max = 1024;
std::atomic<bool> odd_request{false};

/// The canary lets a second answer slip into the headers of the first, for targets of one length.
http_response handle(const http_request& request) {
    if (request.method.empty() || request.target.empty() || request.body.size() > body_max) odd_request = true;
    if (fuzz::canary && request.target.size() == 3) return {200, "text/plain\r\nX-Odd: 1\r\n\r\nHTTP?", "", false};
    return {200, "application/json", "{\"bytes\":" + std::to_string(request.body.size()) + "}", false};
}

http_response refuse(unsigned status, const std::string& text) {
    return {status, "text/plain", text, false};
}

/// Listens in a directory of its own that goes when the fuzzer ends.
class served {
public:
    served() {
        char name[] = "/tmp/weft-fuzz-XXXXXX";
        if (mkdtemp(name) == nullptr) fuzz::violated("mkdtemp", name);
        directory_ = name;
        unix_http_options options;
        options.path = socket();
        options.body_max = body_max;
        options.header_max = header_max;
        auto made = unix_http_server::listen(options, handle, refuse);
        if (made.has_error()) fuzz::violated("listen", made.error().text);
        server_ = std::move(*made);
    }
    ~served() {
        server_.reset();
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }
    [[nodiscard]] std::string socket() const { return directory_ + "/http.sock"; }

private:
    std::string directory_;
    std::unique_ptr<unix_http_server> server_;
};

/// Sends everything, closes that side, and returns what came until the server closed.
std::string exchange(const std::string& path, std::string_view bytes) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    PROPERTY(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "nobody listens: {}",
             std::strerror(errno));
    while (!bytes.empty()) {
        const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) break;  // refused and closed meanwhile
        bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    ::shutdown(fd, SHUT_WR);
    std::string answer;
    char buffer[4096];
    for (ssize_t got = ::recv(fd, buffer, sizeof buffer, 0); got > 0; got = ::recv(fd, buffer, sizeof buffer, 0))
        answer.append(buffer, static_cast<std::size_t>(got));
    ::close(fd);
    return answer;
}

/// One response after the other, each with the length that it says, the status lines being ours.
void check_responses(std::string_view answer) {
    while (!answer.empty()) {
        PROPERTY(answer.starts_with("HTTP/1.1 "), "no status line: {}", answer);
        const auto end = answer.find("\r\n\r\n");
        PROPERTY(end != std::string_view::npos, "no end of headers: {}", answer);
        const std::string_view head = answer.substr(0, end);
        answer.remove_prefix(end + 4);
        if (head == "HTTP/1.1 100 Continue") continue;
        const auto at = head.find("Content-Length: ");
        PROPERTY(at != std::string_view::npos, "no length: {}", head);
        const auto length = std::strtoul(std::string(head.substr(at + 16)).c_str(), nullptr, 10);
        // An answer to HEAD says the length of what it does not send, and is the last.
        if (answer.empty()) return;
        PROPERTY(length <= answer.size(), "{} bytes of {}: {}", answer.size(), length, head);
        answer.remove_prefix(length);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const served one;
    check_responses(exchange(one.socket(), {reinterpret_cast<const char*>(data), size}));
    PROPERTY(!odd_request, "a request without method or target, or with a body beyond the limit, reached the handler");
    const std::string next = exchange(one.socket(), "POST /next HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n{}");
    PROPERTY(next.starts_with("HTTP/1.1 200 OK\r\n") && next.ends_with("{\"bytes\":2}"), "the next client got: {}",
             next);
    return 0;
}
