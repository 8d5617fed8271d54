// SPDX-License-Identifier: Apache-2.0
// weftd's config file: defaults, every key, and the words in which bad ones are refused.
#include "orchestrator/core/daemon_options.hpp"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

using namespace weft;

namespace {

const std::string minimal = "node = n1\nhost = 127.0.0.1\nstore = sqlite:/var/lib/weft/cluster.db\n";

result<daemon_options> parse(const std::string& text) {
    return parse_daemon_options(text, "/usr/libexec/weft");
}

}  // namespace

TEST_CASE("daemon_options: three keys are enough, the others have defaults") {
    const auto options = parse(minimal);
    REQUIRE(options.has_value());
    CHECK(options->node.str() == "n1");
    CHECK(options->admin_socket() == "/run/weft/weftd.sock");
    CHECK(options->plugin_socket() == "/run/docker/plugins/weft.sock");
    CHECK(options->replica_plugin() == "/usr/libexec/weft/nbdkit-weft-replica-plugin.so");
    CHECK(options->lease_ttl == std::chrono::seconds(10));
    CHECK(options->extent_size_bytes == 64 * gib);
    CHECK(options->port_base == 7480);
    CHECK(options->key_directory == "/etc/weft/keys");
    CHECK(options->key_command.empty());
}

TEST_CASE("daemon_options: every key is taken; comments and spaces are not") {
    const auto options = parse(minimal +
                               "# a comment\n state-dir =/srv/s/ \nruntime-dir=/srv/r\ndocker-plugin = w2 # here too\n"
                               "plugin-dir = /srv/p\nport-base = 9000\nlease-ttl-ms = 600\nrequest-timeout-ms = 700\n"
                               "reconnect-window-ms = 0\nattach-timeout-ms = 800\nlibexec-dir = /opt/weft\n"
                               "extent-size = 1GiB\nlog-level = debug\nkey-directory = /srv/k\n"
                               "key-command = /usr/bin/ask\n");
    REQUIRE(options.has_value());
    CHECK(options->state_dir == "/srv/s");
    CHECK(options->runtime_dir == "/srv/r");
    CHECK(options->plugin_socket() == "/srv/p/w2.sock");
    CHECK(options->port_base == 9000);
    CHECK(options->lease_ttl == std::chrono::milliseconds(600));
    CHECK(options->request_timeout == std::chrono::milliseconds(700));
    CHECK(options->reconnect_window == std::chrono::milliseconds(0));
    CHECK(options->attach_timeout == std::chrono::milliseconds(800));
    CHECK(options->libexec_dir == "/opt/weft");
    CHECK(options->extent_size_bytes == gib);
    CHECK(options->key_directory == "/srv/k");
    CHECK(options->key_command == "/usr/bin/ask");
    CHECK(options->level == log_level::debug);
}

TEST_CASE("daemon_options: bad files are refused, naming the key and what is wrong") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "'node' is missing"},
        {"node = n1\nhost = 127.0.0.1\n", "'store' is missing"},
        {minimal + "lease-ttl = 5\n", "unknown key 'lease-ttl'"},
        {minimal + "node = n2\n", "'node' appears twice"},
        {minimal + "port-base = 0\n", "port-base"},
        {minimal + "key-command = ask --now\n", "key-command"},
        {minimal + "key-directory = keys\n", "key-directory"},
        {minimal + "port-base = 65536\n", "port-base"},
        {minimal + "port-base = 74x\n", "port-base"},
        {minimal + "lease-ttl-ms = -1\n", "lease-ttl-ms"},
        {minimal + "lease-ttl-ms = 1\n", "from 500 to 600000"},
        {minimal + "request-timeout-ms = 1e9\n", "request-timeout-ms"},
        {minimal + "state-dir = relative\n", "state-dir"},
        {minimal + "state-dir = /a/../b\n", "state-dir"},
        {minimal + "state-dir = /run/weft\n", "must not be the same"},
        {minimal + "runtime-dir = /" + std::string(60, 'r') + "\n", "at most"},
        {minimal + "plugin-dir = /" + std::string(110, 'p') + "\n", "107"},
        {minimal + "docker-plugin = a/b\n", "docker-plugin"},
        {minimal + "extent-size = 0\n", "extent-size"},
        {minimal + "extent-size = 17000001\n", "multiple of 1 MiB"},
        {minimal + "log-level = loud\n", "debug, info, warning or error"},
        {"node = a b\nhost = 127.0.0.1\nstore = sqlite:/x\n", "node"},
        {"node = n1\nhost = localhost\nstore = sqlite:/x\n", "IP address"},
        {"node = n1\nhost = 0.0.0.0\nstore = sqlite:/x\n", "cannot connect"},
        {minimal + "what is this\n", "what is this"},
    };
    for (const auto& [its_text, expected] : cases) {
        const auto& text = its_text;  // clang 14 cannot capture a structured binding
        CAPTURE(text);
        const auto options = parse(text);
        REQUIRE(options.has_error());
        CHECK(options.error().code == errc::invalid_argument);
        CHECK_MESSAGE(options.error().text.find(expected) != std::string::npos, options.error().text);
    }
}

// Bug guarded against: Boost.Program_options replaced the placeholder in its error text by itself, for ever.
TEST_CASE("daemon_options: a placeholder of the option parser in the file is refused, not replaced for ever") {
    const std::string good = "node = n1\nhost = 127.0.0.1\nstore = sqlite:/x # 100 %sure%\n";
    CHECK(parse_daemon_options(good, "/usr/lib/weft").has_value());
    const auto options = parse_daemon_options(good + "a%invalid_line%\n", "/usr/lib/weft");
    REQUIRE(options.has_error());
    CHECK(options.error().code == errc::invalid_argument);
    CHECK_MESSAGE(options.error().text.find("a%invalid_line%") != std::string::npos, options.error().text);
}

TEST_CASE("daemon_options: the help names every key") {
    const std::string help = describe_daemon_options();
    for (const char* key : {"node", "host", "store", "state-dir", "runtime-dir", "docker-plugin", "plugin-dir",
                            "port-base", "lease-ttl-ms", "request-timeout-ms", "reconnect-window-ms",
                            "attach-timeout-ms", "libexec-dir", "extent-size", "log-level"})
        CHECK_MESSAGE(help.find(std::string("  ") + key + " ") != std::string::npos, key);
}

TEST_CASE("daemon options: who starts servers is one of three words") {
    const std::string base = "node=a\nhost=127.0.0.1\nstore=sqlite:/s\n";
    CHECK(parse_daemon_options(base, "/l")->supervisor == supervision::automatic);
    CHECK(parse_daemon_options(base + "supervisor=auto\n", "/l")->supervisor == supervision::automatic);
    CHECK(parse_daemon_options(base + "supervisor=systemd\n", "/l")->supervisor == supervision::systemd);
    CHECK(parse_daemon_options(base + "supervisor=none\n", "/l")->supervisor == supervision::none);
    const auto wrong = parse_daemon_options(base + "supervisor=yes\n", "/l");
    REQUIRE(wrong.has_error());
    CHECK(wrong.error().text == "supervisor = 'yes': write auto, systemd or none");
}
