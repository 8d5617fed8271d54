// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/daemon_options.hpp"

#include <arpa/inet.h>
#include <boost/program_options.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <sstream>
#include <utility>

#include "orchestrator/core/names.hpp"
#include "orchestrator/core/option_words.hpp"

namespace weft {

namespace po = boost::program_options;

std::string_view to_string(log_level level) noexcept {
    switch (level) {
        case log_level::debug: return "debug";
        case log_level::info: return "info";
        case log_level::warning: return "warning";
        case log_level::error: return "error";
    }
    return "unknown";
}

std::string_view to_string(attach_way way) noexcept {
    switch (way) {
        case attach_way::automatic: return "auto";
        case attach_way::kernel: return "kernel";
        case attach_way::portable: return "portable";
    }
    return "unknown";
}

namespace {

constexpr std::size_t socket_path_max = 107;  // bytes: sockaddr_un.sun_path less its terminating zero
constexpr std::string_view longest_socket = "/volumes/00000000-0000-0000-0000-000000000000/control.sock";

po::options_description known_keys() {
    po::options_description keys("Keys of the config file");
    const auto text = [] { return po::value<std::string>()->value_name("VALUE"); };
    auto add = keys.add_options();
    add("node", text(), "name of this node (required)");
    add("host", text(), "IP address that this node's replica servers listen on and peers connect to (required)");
    add("store", text(), "cluster store, such as sqlite:/var/lib/weft/cluster.db (required)");
    add("state-dir", text(), "what survives a reboot, and the mounts (default /var/lib/weft)");
    add("runtime-dir", text(), "sockets and the like of running servers; best on tmpfs (default /run/weft)");
    add("docker-plugin", text(), "name of the Docker volume driver (default weft)");
    add("plugin-dir", text(), "where dockerd looks for plugin sockets (default /run/docker/plugins)");
    add("port-base", text(), "first port for replica servers (default 7480)");
    add("lease-ttl-ms", text(), "a node that is silent for so long may lose its volumes to others (default 10000)");
    add("request-timeout-ms", text(), "a replica that leaves a request unanswered for so long failed (default 5000)");
    add("reconnect-window-ms", text(), "a lost connection may come back for so long (default 2000)");
    add("attach-timeout-ms", text(), "attaching waits so long for a replica before it goes on without (default 5000)");
    add("repair-after-ms", text(), "what has been gone for so long is replaced elsewhere (default 600000: 10 minutes)");
    add("libexec-dir", text(), "where the nbdkit plugins are (default: ../libexec/weft of weftd, or where weftd is)");
    add("extent-size", text(), "volumes are cut into extents of this size (default 64GiB)");
    add("attach", text(), "kernel (nbd and device-mapper), portable (nbdfuse and loop) or auto: kernel where possible");
    add("device-scope", text(), "part of the devices' names where several weftd share a kernel (default: none)");
    add("key-directory", text(),
        "keys of encrypted volumes: NAME.key, else default.key; 32 to 4096 random bytes, mode 0400 (default "
        "/etc/weft/keys)");
    add("key-command", text(),
        "program that prints the key of an encrypted volume, in place of the directory; its arguments: name and id");
    add("supervisor", text(), "who starts servers: auto (default: systemd when it runs weftd), systemd, none");
    add("log-level", text(), "debug, info, warning or error (default info)");
    return keys;
}

error bad(std::string_view key, std::string_view value, std::string_view rule) {
    return error{errc::invalid_argument, fmt::format("{} = '{}': {}", key, printable(value), rule)};
}

/// The values of the file, with typed access. Every taker leaves its target alone when the key is absent.
class settings {
public:
    explicit settings(po::variables_map values) : values_(std::move(values)) {}

    [[nodiscard]] std::optional<std::string> text(const std::string& key) const {
        if (values_.count(key) == 0) return std::nullopt;
        return values_[key].as<std::string>();
    }

    [[nodiscard]] status require(std::initializer_list<const char*> keys) const {
        for (const char* key : keys)
            if (!text(key) || text(key)->empty())
                return error{errc::invalid_argument,
                             fmt::format("the key '{}' is missing: add a line '{} = ...'", key, key)};
        return ok();
    }

    status number(const std::string& key, std::uint64_t min, std::uint64_t max, std::uint64_t& target) const {
        const auto value = text(key);
        if (!value) return ok();
        std::uint64_t parsed = 0;
        const auto end = value->data() + value->size();
        const auto [stop, failed] = std::from_chars(value->data(), end, parsed);
        if (failed != std::errc{} || stop != end || parsed < min || parsed > max)
            return bad(key, *value, fmt::format("write a whole number from {} to {}", min, max));
        target = parsed;
        return ok();
    }

    status duration(const std::string& key, std::uint64_t min_ms, std::chrono::milliseconds& target,
                    std::uint64_t max_ms = 600'000) const {
        auto value = static_cast<std::uint64_t>(target.count());
        TRY(number(key, min_ms, max_ms, value));
        target = std::chrono::milliseconds{value};
        return ok();
    }

    status directory(const std::string& key, std::filesystem::path& target) const {
        const auto value = text(key);
        if (!value) return ok();
        auto parsed = parse_drive_path(*value);  // the same grammar: absolute, no dots, no control characters
        if (parsed.has_error()) return bad(key, *value, "write an absolute directory without '.' and '..'");
        target = *parsed;
        return ok();
    }

    status file(const std::string& key, std::filesystem::path& target) const {
        const auto value = text(key);
        if (!value) return ok();
        auto parsed = parse_drive_path(*value);  // the same grammar again
        if (parsed.has_error()) return bad(key, *value, "write an absolute path without '.' and '..', no arguments");
        target = *parsed;
        return ok();
    }

private:
    po::variables_map values_;
};

status refuse_placeholders(std::string_view config) {
    while (!config.empty()) {
        const std::string_view line = config.substr(0, config.find('\n'));
        config.remove_prefix(std::min(line.size() + 1, config.size()));
        if (has_placeholder(line.substr(0, line.find('#'))))
            return error{errc::invalid_argument,
                         fmt::format("'{}' has letters between two '%': no key and no value can have that",
                                     printable(line, 80))};
    }
    return ok();
}

result<settings> read_settings(std::string_view config) {
    if (config.size() > 1 * mib) return error{errc::invalid_argument, "larger than 1 MiB: this is not a config file"};
    TRY(refuse_placeholders(config));
    std::istringstream stream{std::string(config)};
    try {
        const auto keys = known_keys();
        po::variables_map values;
        po::store(po::parse_config_file(stream, keys), values);
        po::notify(values);
        return settings(std::move(values));
    } catch (const po::unknown_option& e) {
        std::string known;
        const auto keys = known_keys();  // named: the loop must not outlive a temporary
        for (const auto& option : keys.options())
            known += fmt::format("{}{}", known.empty() ? "" : ", ", option->long_name());
        return error{errc::invalid_argument,
                     fmt::format("unknown key '{}'; the keys are: {}", printable(e.get_option_name()), known)};
    } catch (const po::multiple_occurrences& e) {
        return error{errc::invalid_argument, fmt::format("the key '{}' appears twice", printable(e.get_option_name()))};
    } catch (const po::error& e) {
        return error{errc::invalid_argument, printable(e.what(), 200)};
    }
}

status check_ip_address(const std::string& host) {
    std::array<unsigned char, sizeof(in6_addr)> address{};
    const bool v4 = inet_pton(AF_INET, host.c_str(), address.data()) == 1;
    const bool v6 = !v4 && inet_pton(AF_INET6, host.c_str(), address.data()) == 1;
    if (!v4 && !v6) return bad("host", host, "write an IP address of this machine: peers connect to it");
    if (host == "0.0.0.0" || host == "::")
        return bad("host", host, "peers cannot connect to it; write one address of this machine");
    return ok();
}

status take_level(const settings& from, log_level& target) {
    const auto value = from.text("log-level");
    if (!value) return ok();
    for (const auto level : {log_level::debug, log_level::info, log_level::warning, log_level::error})
        if (to_string(level) == *value) {
            target = level;
            return ok();
        }
    return bad("log-level", *value, "write debug, info, warning or error");
}

status take_attach(const settings& from, attach_way& target) {
    const auto value = from.text("attach");
    if (!value) return ok();
    for (const auto way : {attach_way::automatic, attach_way::kernel, attach_way::portable})
        if (to_string(way) == *value) {
            target = way;
            return ok();
        }
    return bad("attach", *value, "write auto, kernel or portable");
}

/// The grammar of dm-tables/core/dm_name.hpp, check_scope.
status take_device_scope(const settings& from, std::string& target) {
    const auto value = from.text("device-scope");
    if (!value) return ok();
    const bool good =
        value->size() <= 16 && std::all_of(value->begin(), value->end(), [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
        });
    if (!good) return bad("device-scope", *value, "write at most 16 letters, digits, '_' and '.'");
    target = *value;
    return ok();
}

status take_supervisor(const settings& from, supervision& target) {
    const auto value = from.text("supervisor");
    if (!value) return ok();
    if (*value == "auto")
        target = supervision::automatic;
    else if (*value == "systemd")
        target = supervision::systemd;
    else if (*value == "none")
        target = supervision::none;
    else
        return bad("supervisor", *value, "write auto, systemd or none");
    return ok();
}

status take_extent_size(const settings& from, std::uint64_t& target) {
    const auto value = from.text("extent-size");
    if (!value) return ok();
    const auto parsed = parse_size(*value);
    if (parsed.has_error() || *parsed < 16 * mib || *parsed > 16 * tib || *parsed % mib != 0)
        return bad("extent-size", *value, "write a multiple of 1 MiB from 16MiB to 16TiB");
    target = *parsed;
    return ok();
}

status check_lengths(const daemon_options& options) {
    if (options.runtime_dir.native().size() + longest_socket.size() > socket_path_max)
        return bad(
            "runtime-dir", options.runtime_dir.native(),
            fmt::format("it holds sockets, so it may have at most {} bytes", socket_path_max - longest_socket.size()));
    if (options.plugin_socket().native().size() > socket_path_max)
        return bad("plugin-dir", options.plugin_dir.native(), "the socket's path would be longer than 107 bytes");
    if (options.state_dir == options.runtime_dir)
        return bad("state-dir", options.state_dir.native(), "must not be the same as runtime-dir");
    return ok();
}

}  // namespace

result<daemon_options> parse_daemon_options(std::string_view config, const std::filesystem::path& libexec_default) {
    TRY_ASSIGN(const settings from, read_settings(config));
    TRY(from.require({"node", "host", "store"}));
    daemon_options options;
    options.libexec_dir = libexec_default;
    options.node = node_name(*from.text("node"));
    if (auto checked = check_node_name(options.node.str()); checked.has_error()) return checked.error().within("node");
    options.host = *from.text("host");
    TRY(check_ip_address(options.host));
    options.store_url = *from.text("store");
    TRY(from.directory("state-dir", options.state_dir));
    TRY(from.directory("runtime-dir", options.runtime_dir));
    TRY(from.directory("plugin-dir", options.plugin_dir));
    TRY(from.directory("libexec-dir", options.libexec_dir));
    if (const auto name = from.text("docker-plugin")) {
        if (auto checked = check_plugin_name(*name); checked.has_error())
            return checked.error().within("docker-plugin");
        options.docker_plugin = *name;
    }
    std::uint64_t port = options.port_base;
    TRY(from.number("port-base", 1, 65535, port));
    options.port_base = static_cast<std::uint16_t>(port);
    TRY(from.duration("lease-ttl-ms", 500, options.lease_ttl));
    TRY(from.duration("request-timeout-ms", 50, options.request_timeout));
    TRY(from.duration("reconnect-window-ms", 0, options.reconnect_window));
    TRY(from.duration("attach-timeout-ms", 50, options.attach_timeout));
    TRY(from.duration("repair-after-ms", 1000, options.repair_after, 2'592'000'000));
    TRY(take_extent_size(from, options.extent_size_bytes));
    TRY(take_attach(from, options.attach));
    TRY(take_device_scope(from, options.device_scope));
    TRY(from.directory("key-directory", options.key_directory));
    TRY(from.file("key-command", options.key_command));
    TRY(take_level(from, options.level));
    TRY(take_supervisor(from, options.supervisor));
    TRY(check_lengths(options));
    return options;
}

std::string describe_daemon_options() {
    std::ostringstream text;
    const auto keys = known_keys();
    for (const auto& option : keys.options())
        text << fmt::format("  {:<20} {}\n", option->long_name(), option->description());
    return text.str();
}

}  // namespace weft
