// SPDX-License-Identifier: Apache-2.0
// What weftd does with kernel nbd devices (orchestrator/io/nbd_device.hpp), as a program for tests in a guest:
//
//   nbd-tool connect SOCKET EXPORT MARK [CONNECTIONS [RESEND_MS]]   prints "nbdN made|there new-sockets size
//   connections" nbd-tool reconfigure SOCKET EXPORT MARK [CONNECTIONS [RESEND_MS]]   the same, for a device that must
//   be there nbd-tool find PREFIX                    a line "nbdN size connections mark" per device nbd-tool grow MARK
//   BYTES nbd-tool disconnect MARK [TIMEOUT_MS]   the one device with this mark, if there is one nbd-tool watch a line
//   "lost nbdN" or "look" per event, until it is killed nbd-tool load                           loads the module
// Errors go to stderr as "nbd-tool: <code>: <text>", exit status 1.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "orchestrator/io/nbd_device.hpp"
#include "orchestrator/io/nbd_watch.hpp"

namespace {

using namespace weft;
using words = std::vector<std::string>;

nbd_spec spec_of(const words& w) {
    nbd_spec spec;
    spec.socket = w.at(1);
    spec.export_name = w.at(2);
    spec.backend = w.at(3);
    if (w.size() > 4) spec.connections = static_cast<unsigned>(std::stoul(w[4]));
    if (w.size() > 5) spec.resend_after = std::chrono::milliseconds{std::stol(w[5])};
    return spec;
}

/// Every device with exactly this mark.
result<std::vector<nbd_device>> marked(const std::string& mark) {
    TRY_ASSIGN(auto found, find_nbd(mark));
    std::erase_if(found, [&mark](const nbd_device& device) { return device.backend != mark; });
    return found;
}

void print(const nbd_attachment& attached) {
    fmt::print("nbd{} {} {} {} {}\n", attached.device.index, attached.made ? "made" : "there", attached.new_sockets,
               attached.device.bytes, attached.device.connections);
}

status connect(const words& w) {
    TRY_ASSIGN(const auto attached, connect_nbd(spec_of(w)));
    print(attached);
    return ok();
}

status reconfigure(const words& w) {
    const auto spec = spec_of(w);
    TRY_ASSIGN(const auto found, marked(spec.backend));
    nbd_device device;
    device.backend = spec.backend;
    if (!found.empty()) device = found.front();
    TRY_ASSIGN(const auto attached, reconfigure_nbd(device, spec));
    print(attached);
    return ok();
}

status find(const words& w) {
    TRY_ASSIGN(const auto found, find_nbd(w.at(1)));
    for (const auto& device : found)
        fmt::print("nbd{} {} {} {}\n", device.index, device.bytes, device.connections, device.backend);
    return ok();
}

status grow(const words& w) {
    TRY_ASSIGN(const auto found, marked(w.at(1)));
    for (const auto& device : found) TRY(grow_nbd(device, std::stoull(w.at(2))));
    return ok();
}

status disconnect(const words& w) {
    TRY_ASSIGN(const auto found, marked(w.at(1)));
    const auto timeout = std::chrono::milliseconds{w.size() > 2 ? std::stol(w[2]) : 10000};
    for (const auto& device : found) TRY(disconnect_nbd(device, timeout));
    return ok();
}

status watch() {
    TRY_ASSIGN(const auto watching, nbd_watch::start([](std::optional<int> index) {
                   fmt::print("{}\n", index ? fmt::format("lost nbd{}", *index) : "look");
                   std::fflush(stdout);
               }));
    for (;;) ::pause();
}

}  // namespace

int main(int count, char** arguments) {
    const words w(arguments + 1, arguments + count);
    const auto is = [&w](const char* verb, std::size_t least, std::size_t most) {
        return !w.empty() && w[0] == verb && w.size() >= least && w.size() <= most;
    };
    status outcome;
    if (is("connect", 4, 6)) {
        outcome = connect(w);
    } else if (is("reconfigure", 4, 6)) {
        outcome = reconfigure(w);
    } else if (is("find", 2, 2)) {
        outcome = find(w);
    } else if (is("grow", 3, 3)) {
        outcome = grow(w);
    } else if (is("disconnect", 2, 3)) {
        outcome = disconnect(w);
    } else if (is("watch", 1, 1)) {
        outcome = watch();
    } else if (is("load", 1, 1)) {
        outcome = load_nbd_module();
    } else {
        fmt::print(stderr,
                   "nbd-tool: connect|reconfigure SOCKET EXPORT MARK [CONNECTIONS [RESEND_MS]] | find PREFIX | "
                   "grow MARK BYTES | disconnect MARK [TIMEOUT_MS] | watch | load\n");
        return 2;
    }
    if (outcome.has_error()) {
        fmt::print(stderr, "nbd-tool: {}: {}\n", to_string(outcome.error().code), outcome.error().text);
        return 1;
    }
    return 0;
}
