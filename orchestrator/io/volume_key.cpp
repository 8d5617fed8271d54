// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/volume_key.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "orchestrator/core/key_policy.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

static_assert(secret_bytes::capacity == key_size_max);

constexpr std::chrono::seconds command_patience{30};
constexpr std::size_t words_max = 500;  // of what the command said, in the error

error no_key(std::string text) {
    return error{errc::unavailable, std::move(text)};
}

file_facts facts_of(const struct stat& it, bool right_kind) {
    return {right_kind, it.st_uid, it.st_mode & 07777U};
}

/// "exit code 3: Permission denied", on one line.
std::string last_words(const run_outcome& outcome) {
    std::string_view said = outcome.output;
    while (!said.empty() && said.back() == '\n') said.remove_suffix(1);
    if (said.size() > words_max) said.remove_prefix(said.size() - words_max);
    return fmt::format("exit code {}{}{}", outcome.exit_code, said.empty() ? "" : ": ", printable(said, words_max));
}

result<encryption_key> from_command(const std::string& command, const std::string& volume, const volume_id& id) {
    struct stat it {};
    if (::stat(command.c_str(), &it) != 0)
        return no_key(errno_error(errno, fmt::format("look at key command {}", command)).text);
    TRY(check_key_command(command, facts_of(it, S_ISREG(it.st_mode)), ::geteuid()));
    TRY_ASSIGN(auto bytes, secret_bytes::make());
    std::optional<error> problem;
    run_request request;
    request.argv = {command, volume, id.str()};
    request.timeout = command_patience;
    request.whole_session = true;
    request.take_stdout = [&](int fd) {
        const auto more = bytes.read_some(fd);
        if (more.has_error()) problem = more.error();
        return more.has_value() && *more;
    };
    const auto outcome = run(request);
    const std::string source = "key command " + command;
    if (problem) return no_key(fmt::format("the key that {} gave for volume '{}': {}", source, volume, problem->text));
    if (outcome.has_error()) return no_key(fmt::format("key for volume '{}': {}", volume, outcome.error().text));
    if (outcome->exit_code != 0)
        return no_key(fmt::format("{} has no key for volume '{}': {}", source, volume, last_words(*outcome)));
    TRY(check_key_size(source, bytes.view().size()));
    return encryption_key{std::move(bytes), source};
}

result<encryption_key> from_file(unique_fd fd, const std::string& path) {
    struct stat it {};
    if (::fstat(fd.get(), &it) != 0) return no_key(errno_error(errno, fmt::format("look at {}", path)).text);
    TRY(check_key_file(path, facts_of(it, S_ISREG(it.st_mode)), ::geteuid()));
    const std::string source = "key file " + path;
    TRY_ASSIGN(auto bytes, secret_bytes::make());
    if (const auto read = bytes.read_all(fd.get()); read.has_error())
        return no_key(fmt::format("{}: {}", source, read.error().text));
    TRY(check_key_size(source, bytes.view().size()));
    return encryption_key{std::move(bytes), source};
}

result<encryption_key> from_directory(const std::filesystem::path& directory, const std::string& volume) {
    struct stat it {};
    if (::stat(directory.c_str(), &it) == 0)
        TRY(check_key_directory(directory.native(), facts_of(it, S_ISDIR(it.st_mode)), ::geteuid()));
    for (const std::string& name : key_file_names(volume)) {
        const auto path = (directory / name).native();
        // O_NONBLOCK: a pipe of that name must not keep us.
        unique_fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
        if (fd) return from_file(std::move(fd), path);
        // Anything but "it does not exist" is an error: the default key would be the wrong one.
        if (errno != ENOENT) return no_key(errno_error(errno, fmt::format("open key file {}", path)).text);
    }
    const auto names = key_file_names(volume);
    return no_key(
        fmt::format("there is no key for volume '{}' on this node: {} has neither {} nor {}, and no "
                    "key-command is configured",
                    volume, directory.string(), names[0], names[1]));
}

}  // namespace

result<encryption_key> read_volume_key(const daemon_options& options, const std::string& volume, const volume_id& id) {
    TRY(check_volume_name(volume));
    if (!options.key_command.empty()) return from_command(options.key_command.native(), volume, id);
    return from_directory(options.key_directory, volume);
}

}  // namespace weft
