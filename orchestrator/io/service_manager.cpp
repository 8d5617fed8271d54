// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/service_manager.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

namespace weft {

namespace {

/// The array of names that sd_listen_fds_with_names allocates; each string is to be freed, too.
struct free_names {
    void operator()(char** names) const noexcept {
        for (char** name = names; *name != nullptr; ++name) std::free(*name);
        std::free(names);
    }
};

/// A status line has no line breaks: they would begin another field of the message.
std::string one_line(std::string text) {
    for (char& c : text)
        if (c == '\n') c = ' ';
    return text;
}

}  // namespace

result<service_manager> service_manager::take() {
    service_manager taken;
    char** raw = nullptr;
    const int count = ::sd_listen_fds_with_names(/* unset_environment= */ 1, &raw);
    if (count < 0) return errno_error(-count, "take the sockets that systemd hands over");
    const std::unique_ptr<char*, free_names> names(raw);
    for (int i = 0; i < count; ++i)
        taken.handed_.push_back({raw == nullptr ? "" : raw[i], unique_fd{SD_LISTEN_FDS_START + i}});
    return taken;
}

bool service_manager::runs_us() {
    return ::sd_booted() > 0 && std::getenv("NOTIFY_SOCKET") != nullptr && std::getenv("INVOCATION_ID") != nullptr;
}

result<int> service_manager::socket(const std::string& name, const std::string& path) {
    for (auto& handed : handed_) {
        if (handed.name != name || !handed.fd) continue;
        const int fits =
            ::sd_is_socket_unix(handed.fd.get(), SOCK_STREAM, /* listening= */ 1, path.c_str(), /* length= */ 0);
        if (fits < 0) return errno_error(-fits, fmt::format("look at the socket '{}' of systemd", name));
        if (fits == 0)
            return error{
                errc::invalid_argument,
                fmt::format("systemd hands over a socket '{}' that does not listen on {}: change ListenStream= "
                            "of that socket unit (systemctl edit), or weftd.conf, so that they agree",
                            name, path)};
        const int flags = ::fcntl(handed.fd.get(), F_GETFL);
        if (flags < 0 || ::fcntl(handed.fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
            return errno_error(errno, fmt::format("make the socket '{}' non-blocking", name));
        return handed.fd.release();
    }
    return -1;
}

void service_manager::ready(const std::string& text) {
    const std::lock_guard lock(mutex_);
    told_ = text;
    (void)::sd_notify(0, fmt::format("READY=1\nSTATUS={}", one_line(text)).c_str());
}

void service_manager::stopping() {
    (void)::sd_notify(0, "STOPPING=1\nSTATUS=stopping; what is attached stays attached");
}

void service_manager::alive(const std::string& text) {
    const std::lock_guard lock(mutex_);
    const bool news = text != told_;
    told_ = text;
    (void)::sd_notify(0, news ? fmt::format("WATCHDOG=1\nSTATUS={}", one_line(text)).c_str() : "WATCHDOG=1");
}

}  // namespace weft
