// SPDX-License-Identifier: Apache-2.0
// weftd --config FILE: the command line. Exit codes: 0 stopped in order, 1 could not start, 2 wrong command line or
// config file.
#include <boost/program_options.hpp>
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "orchestrator/core/names.hpp"
#include "orchestrator/daemon/daemon.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/dm_process.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/helper_process.hpp"
#include "orchestrator/io/luks_process.hpp"
#include "orchestrator/io/unit_start.hpp"

namespace {

namespace po = boost::program_options;

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

int usage_error(const std::string& text) {
    std::cerr << "weftd: " << text << "\n";
    return exit_usage;
}

/// Where the nbdkit plugins are: beside weftd in a build folder, in ../libexec/weft when it is installed.
std::filesystem::path default_libexec() {
    std::error_code failed;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
    if (failed) return "/usr/libexec/weft";
    const auto installed = self.parent_path().parent_path() / "libexec" / "weft";
    return std::filesystem::is_directory(installed, failed) ? installed : self.parent_path();
}

weft::result<weft::daemon_options> load_options(const std::string& path) {
    TRY_ASSIGN(const auto text, weft::read_file(path));
    if (!text) return weft::error{weft::errc::not_found, "there is no such file"};
    TRY_ASSIGN(auto options, weft::parse_daemon_options(*text, default_libexec()));
    std::error_code failed;
    // Said here, not when the first drive is added, days later.
    for (const auto& plugin : {options.replica_plugin(), options.volume_plugin()})
        if (!std::filesystem::exists(plugin, failed))
            return weft::error{weft::errc::invalid_argument,
                               fmt::format("libexec-dir = '{}': {} is not there; name the folder of the nbdkit plugins",
                                           options.libexec_dir.string(), plugin.filename().string())};
    return options;
}

void print_help(const po::options_description& arguments) {
    std::cout << "weftd - the node agent of Weft: replicated volumes for Docker\n\n"
                 "Usage: weftd --config FILE\n\n"
              << arguments << "\nKeys of the config file (key = value, # begins a comment):\n"
              << weft::describe_daemon_options();
}

int run(int argc, char** argv) {
    po::options_description arguments("Options");
    std::string config, stem;
    std::vector<std::string> words;
    unsigned patience_s = 0;
    auto add = arguments.add_options();
    add("config,c", po::value(&config)->value_name("FILE"), "the config file");
    add("check-config", "read the config file, say whether it is good, and end");
    add("let-go", po::value(&patience_s)->value_name("SECONDS"),
        "in place of a weftd that has ended, as the machine goes down: detach every volume of this node, end");
    add("launch", po::value(&stem)->value_name("STEM"), "for systemd's units: become the server of STEM.start");
    add("helper", po::value(&words)->multitoken()->value_name("WORDS"),
        "for weftd itself: one piece of work on a volume's device");
    add("help,h", "this text");
    add("version", "the version");
    po::variables_map given;
    try {
        po::store(po::command_line_parser(argc, argv).options(arguments).positional({}).run(), given);
        po::notify(given);
    } catch (const po::error& e) {
        return usage_error(weft::printable(e.what(), 200) + " (see weftd --help)");
    }
    if (given.count("help") != 0) {
        print_help(arguments);
        return 0;
    }
    if (given.count("version") != 0) {
        std::cout << "weftd " << WEFT_VERSION << "\n";
        return 0;
    }
    if (given.count("launch") != 0) {
        const auto failed = weft::launch(stem);
        weft::log(weft::log_level::error, "launch", "cannot become the server", {{"error", failed.text}});
        return exit_failed;
    }
    if (given.count("helper") != 0)
        return weft::helper_main(
            {{"dm", weft::dm_helper}, {"format", weft::format_helper}, {"luks", weft::luks_helper}}, words);
    if (config.empty()) return usage_error("--config FILE is missing (see weftd --help)");
    const auto options = load_options(config);
    if (options.has_error()) return usage_error(weft::printable(config, 200) + ": " + options.error().text);
    if (given.count("check-config") != 0) {
        std::cout << config << ": good\n";
        return 0;
    }
    if (given.count("let-go") != 0) {
        const auto gone = weft::let_go_of_volumes(*options, std::chrono::seconds{patience_s});
        if (gone.has_value()) return 0;
        weft::log(weft::log_level::error, "weftd", "not every volume could be let go of",
                  {{"error", gone.error().text}});
        return exit_failed;
    }
    if (const auto ended = weft::run_daemon(*options); ended.has_error()) {
        weft::log(weft::log_level::error, "weftd", "cannot start", {{"error", ended.error().text}});
        return exit_failed;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& e) {  // out of memory, no thread: nothing that a caller could act on
        weft::log(weft::log_level::error, "weftd", "ended by an exception", {{"what", e.what()}});
        return exit_failed;
    }
}
