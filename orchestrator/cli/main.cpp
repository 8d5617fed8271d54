// SPDX-License-Identifier: Apache-2.0
// `weft`: the command line, a thin client of weftd's admin socket. Here real socket, terminal and clock meet run.cpp.
#include <fmt/format.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "orchestrator/cli/command.hpp"
#include "orchestrator/cli/run.hpp"
#include "orchestrator/io/unix_http_client.hpp"

namespace {

using namespace weft;

constexpr std::string_view socket_default = "/run/weft/weftd.sock";

/// Everything, or false: the reader is gone or the disk is full.
bool write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

cli::surroundings real_world(const cli::invocation& command, bool& out_failed) {
    std::string socket = command.socket.empty() ? environment("WEFT_SOCKET") : command.socket;
    if (socket.empty()) socket = socket_default;
    if (socket[0] != '/') {  // as any program takes a path: relative to where one is
        char* here = ::getcwd(nullptr, 0);
        if (here != nullptr) socket = fmt::format("{}/{}", here, socket);
        std::free(here);
    }
    cli::surroundings world;
    world.ask = [socket, patience = command.patience](const http_request& request) {
        return unix_http_call(socket, request, patience);
    };
    world.out = [&out_failed](std::string_view text) { out_failed = !write_all(STDOUT_FILENO, text) || out_failed; };
    world.err = [](std::string_view text) { (void)write_all(STDERR_FILENO, text); };
    world.now = [] { return std::chrono::steady_clock::now().time_since_epoch(); };
    world.wait = [](std::chrono::milliseconds length) { std::this_thread::sleep_for(length); };
    const bool terminal = ::isatty(STDOUT_FILENO) == 1 && environment("TERM") != "dumb";
    world.how.colour = terminal && environment("NO_COLOR").empty();
    world.how.unicode = std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
    winsize window{};
    if (terminal) {
        const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
        world.columns = known ? window.ws_col : 80;
        world.lines = known ? window.ws_row : 24;
    }
    return world;
}

int weft_main(const std::vector<std::string>& words) {
    const cli::parsed_line line = cli::parse_line(words);
    if (!line.problem.empty()) {
        (void)write_all(STDERR_FILENO, fmt::format("weft: {}\n", line.problem));
        return cli::exit_usage;
    }
    if (!line.run) return write_all(STDOUT_FILENO, line.help) ? cli::exit_done : cli::exit_refused;
    bool out_failed = false;
    const int code = cli::run(*line.run, real_world(*line.run, out_failed));
    if (!out_failed || code != cli::exit_done) return code;
    (void)write_all(STDERR_FILENO, fmt::format("weft: cannot write the answer: {}\n", std::strerror(errno)));
    return cli::exit_refused;
}

}  // namespace

int main(int argc, char** argv) {
    std::setlocale(LC_CTYPE, "");
    try {
        return weft_main(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    } catch (const std::exception& failed) {  // out of memory
        (void)write_all(STDERR_FILENO, fmt::format("weft: {}\n", failed.what()));
        return weft::cli::exit_refused;
    }
}
