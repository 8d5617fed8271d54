// SPDX-License-Identifier: Apache-2.0
// weftd's config file.
//
// Properties: what is accepted keeps every limit that the rest of weftd relies on (paths absolute and short enough for
// sockets, times and ports in range, names within the grammar); written out as a file again it is the same; what is
// refused names the key in a text that may be printed.
#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/core/names.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

constexpr std::size_t socket_path_max = 107;

/// The canary takes a privileged port for none.
result<daemon_options> parse(std::string_view text) {
    auto options = parse_daemon_options(text, "/usr/lib/weft");
    if (fuzz::canary && options.has_value() && options->port_base < 1024) options->port_base = 0;
    return options;
}

std::string render(const daemon_options& it) {
    return fmt::format(
        "node = {}\nhost = {}\nstore = {}\nstate-dir = {}\nruntime-dir = {}\ndocker-plugin = {}\nplugin-dir = {}\n"
        "port-base = {}\nlease-ttl-ms = {}\nrequest-timeout-ms = {}\nreconnect-window-ms = {}\n"
        "attach-timeout-ms = {}\nlibexec-dir = {}\nextent-size = {}\nkey-directory = {}\nlog-level = {}\n",
        it.node.str(), it.host, it.store_url, it.state_dir.native(), it.runtime_dir.native(), it.docker_plugin,
        it.plugin_dir.native(), it.port_base, it.lease_ttl.count(), it.request_timeout.count(),
        it.reconnect_window.count(), it.attach_timeout.count(), it.libexec_dir.native(), it.extent_size_bytes,
        it.key_directory.native(), to_string(it.level));
}

void check_limits(const daemon_options& it) {
    PROPERTY(check_node_name(it.node.str()).has_value(), "node '{}'", it.node.str());
    PROPERTY(check_plugin_name(it.docker_plugin).has_value(), "plugin '{}'", it.docker_plugin);
    PROPERTY(!it.host.empty() && !it.store_url.empty(), "something required is empty");
    PROPERTY(it.port_base >= 1, "port {}", it.port_base);
    for (const auto& directory : {it.state_dir, it.runtime_dir, it.plugin_dir, it.libexec_dir, it.key_directory}) {
        const auto checked = parse_drive_path(directory.native());
        PROPERTY(checked.has_value() && *checked == directory.native(), "directory '{}'", directory.native());
    }
    PROPERTY(it.admin_socket().native().size() <= socket_path_max, "{}", it.admin_socket().native());
    PROPERTY(it.plugin_socket().native().size() <= socket_path_max, "{}", it.plugin_socket().native());
    PROPERTY(it.lease_ttl.count() >= 500 && it.lease_ttl.count() <= 600'000, "{} ms", it.lease_ttl.count());
    PROPERTY(it.request_timeout.count() >= 50 && it.attach_timeout.count() >= 50 && it.reconnect_window.count() >= 0,
             "{} ms, {} ms, {} ms", it.request_timeout.count(), it.attach_timeout.count(), it.reconnect_window.count());
    PROPERTY(it.extent_size_bytes >= 16 * mib && it.extent_size_bytes % mib == 0, "{}", it.extent_size_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto options = parse(text);
    if (options.has_error()) {
        fuzz::check_error(options.error(), errc::invalid_argument);
        return 0;
    }
    check_limits(*options);
    // What the file's own syntax gives a meaning is not expected back: '#' begins a comment, spaces at ends are
    // nothing.
    const std::string file = render(*options);
    const auto again = parse_daemon_options(file, "/usr/lib/weft");
    PROPERTY(again.has_value() && render(*again) == file, "not the same again: {}", file);
    return 0;
}
