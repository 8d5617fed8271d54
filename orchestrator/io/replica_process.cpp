// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/replica_process.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <sstream>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/server_start.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

/// One request of a connection at a time, without worker threads; a writer opens several connections per replica
/// instead (attach_config::connections). With worker threads nbdkit 1.32.5 aborts (server/connections.c, assertion
/// `sock >= 0`) when a writer dies while several of them have an answer to send: its death would take every replica of
/// the drive with it. It is also faster.
constexpr int threads_per_connection = 1;
constexpr std::uint64_t stack_bytes = 512 * 1024;

struct drive_paths {
    fs::path directory, identity, pidfile, log;
};

drive_paths paths_of(const fs::path& runtime_dir, const drive_id& drive) {
    INVARIANT(is_uuid(drive.str()), "replica server: '{}' is not a UUID", drive.str());
    const fs::path directory = runtime_dir / "drives" / drive.str();
    return {directory, directory / "server.identity", directory / "server.pid", directory / "server.log"};
}

/// The arguments of a process. Errors: not_found when it is gone.
result<std::vector<std::string>> arguments_of(pid_t pid) {
    TRY_ASSIGN(const auto text, read_file(fmt::format("/proc/{}/cmdline", pid)));
    if (!text || text->empty()) return error{errc::not_found, fmt::format("process {} is gone", pid)};
    std::vector<std::string> arguments;
    for (std::size_t from = 0; from < text->size();) {
        const auto end = std::min(text->find('\0', from), text->size());
        arguments.push_back(text->substr(from, end - from));
        from = end + 1;
    }
    return arguments;
}

struct filter_arguments {
    std::vector<std::string> filters;  // before the plugin
    std::vector<std::string> settings;
};

/// What <runtime>/replica-filters asks for (replica_process.hpp); nothing when there is no such file.
result<filter_arguments> read_filters(const fs::path& runtime_dir) {
    const auto path = runtime_dir / "replica-filters";
    filter_arguments found;
    TRY_ASSIGN(const auto text, read_file(path));
    if (!text) return found;
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        if (line.empty()) continue;
        const bool filter = line.starts_with("--filter=");
        const auto equals = line.find('=');
        if (!filter && (line.starts_with("-") || equals == 0 || equals == std::string::npos))
            return error{errc::invalid_argument,
                         fmt::format("{}: '{}': write --filter=NAME or key=value, one per line", path.string(), line)};
        (filter ? found.filters : found.settings).push_back(line);
    }
    return found;
}

/// Takes back apart what start_replica_server put together.
replica_server server_of(const process_identity& process, const std::vector<std::string>& arguments) {
    constexpr std::string_view drive_key = "drive=";
    replica_server server;
    server.process = process;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        if (arguments[i] == "-i" && i + 1 < arguments.size()) {
            server.host = arguments[++i];
        } else if (arguments[i] == "-p" && i + 1 < arguments.size()) {
            const std::string& port = arguments[++i];
            std::from_chars(port.data(), port.data() + port.size(), server.port);  // 0 if it is no port
        } else if (arguments[i].starts_with(drive_key)) {
            server.drive_directory = arguments[i].substr(drive_key.size());
        }
    }
    return server;
}

}  // namespace

result<process_identity> start_replica_server(const replica_server_config& config) {
    const auto paths = paths_of(config.runtime_dir, config.drive);
    TRY(make_directories(paths.directory));
    TRY_ASSIGN(const auto filters, read_filters(config.runtime_dir));
    server_start start;
    start.name = fmt::format("replica server of drive {} ({})", config.drive.str(), config.drive_directory.string());
    start.pidfile = paths.pidfile;
    start.ready_timeout = config.ready_timeout;
    start.spawn.argv = {"nbdkit", "-f",
                        "-t",     std::to_string(threads_per_connection),
                        "-i",     config.host,
                        "-p",     std::to_string(config.port),
                        "-P",     paths.pidfile.string()};
    auto& argv = start.spawn.argv;
    argv.insert(argv.end(), filters.filters.begin(), filters.filters.end());
    argv.push_back(config.plugin.string());
    argv.push_back("drive=" + config.drive_directory.string());
    if (!config.boot_id.empty()) argv.push_back("boot-id=" + config.boot_id);
    argv.insert(argv.end(), filters.settings.begin(), filters.settings.end());
    start.spawn.unit = fmt::format("weft-replica@{}.service", config.drive.str());
    start.spawn.identity_file = paths.identity;
    start.spawn.log_file = paths.log;
    start.spawn.data_path = true;  // on the writer's own node it is below the page cache, too
    start.spawn.stack_bytes = stack_bytes;
    auto started = start_server(start);
    if (started.has_error() && started.error().code == errc::unavailable &&
        started.error().text.find("Address already in use") != std::string::npos)
        return error{errc::busy, EADDRINUSE,
                     fmt::format("port {} of {} is in use by another program; choose another port-base, or end that "
                                 "program ({})",
                                 config.port, config.host, started.error().text)};
    return started;
}

result<std::optional<replica_server>> find_replica_server(const fs::path& runtime_dir, const drive_id& drive) {
    TRY_ASSIGN(const auto live, read_live_identity(paths_of(runtime_dir, drive).identity));
    if (!live) return std::optional<replica_server>{};
    const auto arguments = arguments_of(live->pid);
    if (!is_alive(*live)) return std::optional<replica_server>{};  // also when the pid was given to another meanwhile
    if (arguments.has_error()) return arguments.error();
    return std::optional<replica_server>{server_of(*live, *arguments)};
}

status stop_replica_server(const fs::path& runtime_dir, const drive_id& drive, std::chrono::milliseconds grace) {
    const auto paths = paths_of(runtime_dir, drive);
    TRY_ASSIGN(const auto live, read_live_identity(paths.identity));
    if (live) TRY(terminate(*live, grace));
    return remove_directory_tree(paths.directory);
}

result<std::vector<drive_id>> list_replica_directories(const fs::path& runtime_dir) {
    TRY_ASSIGN(const auto names, list_uuid_directories(runtime_dir / "drives"));
    std::vector<drive_id> ids;
    for (const auto& name : names) ids.emplace_back(name);
    return ids;
}

}  // namespace weft
