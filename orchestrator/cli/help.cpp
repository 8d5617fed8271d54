// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/help.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace weft::cli {

namespace {

constexpr std::string_view global_text = R"(Global options:
  --socket PATH         weftd's admin socket (environment: WEFT_SOCKET; default /run/weft/weftd.sock)
  -o, --output FORMAT   table (for people) or json (weftd's answer, one document)
  --timeout SECONDS     how long to wait for an answer (default 120)
  -h, --help            this text
)";

constexpr std::string_view exit_text = R"(Exit status:
  0  done
  1  weftd refused or failed; the text says why
  2  the command line is wrong
  3  weftd cannot be reached on its socket
  4  there is no such volume, drive or node
  5  it is in use; the text says where
  6  it exists already
  7  not possible now, or the outcome is not known (store or replicas away, time-out): look, then try again
)";

const std::vector<command_help>& commands() {
    static const std::vector<command_help> table = {
        {verb::status, "", {"status"}, "", "Show the cluster in a few lines", "", ""},
        {verb::events,
         "",
         {"events"},
         "",
         "Show what happened last, oldest first",
         "  -n, --newest N        how many (1 to 1000, default 50)\n",
         ""},
        {verb::node_ls,
         "node",
         {"ls", "list"},
         "",
         "List the nodes of the cluster",
         "",
         "LEASE is how long the node is still believed alive without a sign of life. A volume whose writer's lease "
         "has\n"
         "expired may be taken over by another node.\n"},
        {verb::drive_add,
         "drive",
         {"add", "create"},
         "PATH",
         "Give a directory of this node to the pool",
         "",
         "PATH is absolute. The directory should be a mounted file system of its own (XFS is recommended); its free "
         "space\n"
         "is what volumes are placed by.\n"},
        {verb::drive_ls,
         "drive",
         {"ls", "list"},
         "",
         "List the drives of the pool",
         "",
         "SERVING is known for the drives of the node that is asked.\n"},
        {verb::drive_rm,
         "drive",
         {"rm", "remove", "delete"},
         "ID",
         "Take an empty drive out of the pool",
         "",
         "ID is the drive's id, at least the first 4 characters of it, or its path on this node.\n"},
        {verb::volume_create,
         "volume",
         {"create", "add"},
         "NAME",
         "Create a volume",
         "  --size SIZE           such as 10GiB, 512m or a number of bytes (default 10GiB)\n"
         "  --replicas N          copies on different nodes, 1 to 3 (default 2)\n"
         "  --min-replicas N      writes wait rather than go on with fewer up-to-date copies (default 1)\n"
         "  --fs TYPE             ext4 (default) or xfs\n"
         "  --opt KEY=VALUE       any option that 'docker volume create -o' takes; may be repeated\n",
         "NAME: 1 to 128 letters, digits, '_', '.' and '-', beginning with a letter or digit.\n"},
        {verb::volume_ls,
         "volume",
         {"ls", "list"},
         "",
         "List the volumes",
         "",
         "REPLICAS counts the up-to-date copies of those wanted.\n"},
        {verb::volume_inspect,
         "volume",
         {"inspect", "show", "info"},
         "NAME",
         "Show a volume from its file system down to its replicas",
         "  -w, --watch           go on showing it until every replica is up to date: redrawn on a terminal, else a "
         "line\n"
         "                        for every change\n",
         "Progress, rate and holds are known to the engine on the writer's node: ask there.\n"},
        {verb::volume_rm,
         "volume",
         {"rm", "remove", "delete"},
         "NAME",
         "Remove a volume and its data everywhere",
         "",
         "Refused while it is attached on a node.\n"},
        {verb::volume_attach,
         "volume",
         {"attach"},
         "NAME",
         "Attach a volume to this node without mounting it",
         "  -f, --force           take it from another node that is alive: its I/O fails at once and for good\n",
         "Prints the NBD address of the whole volume. It counts as use until 'weft volume detach'.\n"},
        {verb::volume_detach, "volume", {"detach"}, "NAME", "Undo 'weft volume attach' on this node", "", ""},
    };
    return table;
}

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> groups = {{
    {"node", "The machines that run weftd"},
    {"drive", "The directories that nodes give to the pool"},
    {"volume", "What containers use"},
}};

std::string summary_line(const command_help& command) {
    const std::string usage = fmt::format("{} {}", command.names[0], command.argument);
    std::string line = fmt::format("  {:<20}  {}", usage, command.summary);
    if (command.names.size() > 1)
        line += fmt::format(" (also: {})", fmt::join(command.names.begin() + 1, command.names.end(), ", "));
    return line + "\n";
}

std::string group_lines(std::string_view group) {
    std::string text;
    for (const auto& command : commands())
        if (command.group == group) text += summary_line(command);
    return text;
}

}  // namespace

const command_help* find_command(std::string_view group, std::string_view name) {
    for (const auto& command : commands()) {
        const std::string_view wanted = command.group.empty() ? group : name;
        if (!command.group.empty() && command.group != group) continue;
        if (std::find(command.names.begin(), command.names.end(), wanted) != command.names.end()) return &command;
    }
    return nullptr;
}

bool is_group(std::string_view word) {
    return std::any_of(groups.begin(), groups.end(), [&](const auto& group) { return group.first == word; });
}

bool is_single(std::string_view word) {
    const command_help* command = find_command(word, "");
    return command != nullptr && command->group.empty();
}

std::string title_of(const command_help& command) {
    return command.group.empty() ? fmt::format("weft {}", command.names[0])
                                 : fmt::format("weft {} {}", command.group, command.names[0]);
}

std::string help_of(const command_help& command) {
    std::string text = fmt::format("Usage: {}{}{}{}\n\n{}.\n", title_of(command), command.argument.empty() ? "" : " ",
                                   command.argument, command.options.empty() ? "" : " [OPTIONS]", command.summary);
    if (!command.details.empty()) text += fmt::format("\n{}", command.details);
    if (command.names.size() > 1)
        text += fmt::format("\nAlso: {}\n", fmt::join(command.names.begin() + 1, command.names.end(), ", "));
    if (!command.options.empty()) text += fmt::format("\nOptions:\n{}", command.options);
    return fmt::format("{}\n{}\n{}", text, global_text, exit_text);
}

std::string help_of_group(std::string_view group) {
    std::string_view about;
    for (const auto& [name, text] : groups)
        if (name == group) about = text;
    return fmt::format("Usage: weft {} COMMAND\n\n{}.\n\nCommands:\n{}\n{}", group, about, group_lines(group),
                       global_text);
}

std::string short_help() {
    std::string text = "Usage: weft GROUP COMMAND [ARGUMENT] [OPTIONS]\n\nReplicated block volumes for Docker.\n\n";
    text += group_lines("");
    for (const auto& [name, about] : groups) text += fmt::format("\nweft {}: {}\n{}", name, about, group_lines(name));
    return fmt::format("{}\n{}\n'weft help' prints the whole manual, 'weft GROUP COMMAND --help' one command's.\n",
                       text, global_text);
}

std::string manual() {
    std::string text = R"(NAME
  weft - look after replicated block volumes for Docker

SYNOPSIS
  weft [--socket PATH] [-o table|json] [--timeout SECONDS] GROUP COMMAND [ARGUMENT] [OPTIONS]

DESCRIPTION
  Every node lends drives to a pool. A volume has replicas on several nodes; the one node that uses it, its writer, sees
  an ordinary block device. weft asks the weftd of this machine over its admin socket; it needs root or the group weft.

  States of a replica: up_to_date (serves reads), outdated (was good, missed writes), inconsistent (being filled),
  failed. Health of a volume: healthy, degraded (fewer good replicas than wanted), holding (writes wait for a decision
  or a replica), unavailable, creating.

COMMANDS
)";
    for (const auto& command : commands()) {
        text += fmt::format("  {}{}{}\n      {}.\n", title_of(command), command.argument.empty() ? "" : " ",
                            command.argument, command.summary);
        if (!command.options.empty()) text += fmt::format("{}", command.options);
        text += "\n";
    }
    text += fmt::format("{}\n{}\n", global_text, exit_text);
    return text + R"(Environment:
  WEFT_SOCKET           as --socket
  NO_COLOR              if set and not empty: no colour, also on a terminal

Examples:
  weft drive add /srv/weft/disk1
  weft volume create db --size 20GiB --replicas 3
  docker volume create -d weft -o size=20GiB db
  weft volume show db --watch
  weft -o json volume ls
)";
}

}  // namespace weft::cli
