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
        {verb::node_forget,
         "node",
         {"forget"},
         "NODE",
         "Take a dead node out of the cluster for good",
         "  -f, --force           also when data is lost by it\n",
         "Refused for a node that is alive. Its replicas leave their volumes and are made anew on other nodes, its "
         "drives\n"
         "leave the pool. Refused when a volume's last up-to-date replica is there, or one that min-replicas needs; "
         "with\n"
         "--force the volume goes on without: what only that replica had is lost. If the node comes back it joins as a "
         "new\n"
         "one; 'weft drive add' takes its directories when what is left of its replicas was deleted by hand.\n"},
        {verb::drive_add,
         "drive",
         {"add", "create"},
         "PATH",
         "Give a block device or a directory of this node to the pool",
         "  --erase WHAT          format a device although it is not blank: WHAT names all that is lost by it, as the\n"
         "                        refusal without this option says\n",
         "PATH is absolute. A block device (disk, partition, logical volume) is formatted with XFS, mounted by weftd "
         "and\n"
         "found again by its UUID, whatever its name is then; it is refused when anything is on it or uses it. A "
         "directory\n"
         "should be a mounted file system of its own (XFS is recommended); its free space is what volumes are placed "
         "by.\n"},
        {verb::drive_ls,
         "drive",
         {"ls", "list"},
         "",
         "List the drives of the pool",
         "",
         "SERVING is known for the drives of the node that is asked.\n"},
        {verb::drive_inspect,
         "drive",
         {"inspect", "show"},
         "ID",
         "Show a drive in detail",
         "",
         "ID is the drive's id, at least the first 4 characters of it, or its directory or device on this node.\n"},
        {verb::drive_rm,
         "drive",
         {"rm", "remove", "delete"},
         "ID",
         "Take an empty drive out of the pool",
         "",
         "ID is the drive's id, at least the first 4 characters of it, or its directory or device on this node. "
         "Refused "
         "while\n"
         "replicas are on it. A device that weftd mounted is unmounted.\n"},
        {verb::volume_create,
         "volume",
         {"create", "add"},
         "NAME",
         "Create a volume",
         "  --size SIZE           such as 10GiB, 512m or a number of bytes (default 10GiB)\n"
         "  --replicas N          copies on different nodes, 1 to 3 (default 2)\n"
         "  --stripes N           side by side over N extents on different drives, 1 to 16 (default 1)\n"
         "  --layout WHAT         striped (default) or mirrored: device-mapper's raid1 keeps the copies equal, not "
         "Weft\n"
         "  --min-replicas N      writes wait rather than go on with fewer up-to-date copies (default 1)\n"
         "  --fs TYPE             ext4 (default) or xfs\n"
         "  --provisioning WHEN   thin (default: space is taken as it is written) or thick (all of it at once: no "
         "drive "
         "can\n"
         "                        be too full for this volume later)\n"
         "  --checksums on|off    on (default): replicas keep a checksum of every block, a rotten one is never read\n"
         "  --encrypt on|off      off (default), or on: LUKS2 under the file system. Each node that mounts it needs "
         "the "
         "key:\n"
         "                        NAME.key or default.key in weftd's key-directory (/etc/weft/keys), or what its\n"
         "                        key-command prints; 32 to 4096 random bytes. Needs the kernel attach\n"
         "  --on-full WHAT        hold (default) or fail: a write that finds a drive full waits for space, or fails "
         "with\n"
         "                        \"no space left on device\"\n"
         "  --resync-rate RATE    the most that copies in the background move per second, such as 100MiB (default 0: "
         "no\n"
         "                        limit)\n"
         "  --scrub-every TIME    compare the replicas so often: 7d, 12h, … (default never)\n"
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
        {verb::volume_set,
         "volume",
         {"set"},
         "NAME KEY=VALUE",
         "Change policies of a volume, also while it is attached",
         "",
         "KEY=VALUE may be repeated. KEY is min-replicas, on-full, resync-rate or scrub-every; their values are those "
         "of\n"
         "'weft volume create'. All changes are made, or none.\n"},
        {verb::volume_scrub,
         "volume",
         {"scrub"},
         "NAME",
         "Compare the replicas of a volume and repair what differs",
         "      --wait            go on until it has ended, with a line for every percent, and print what it found\n",
         "It runs in the background on the writer's node, also while the volume is in use; a volume that nobody uses "
         "is\n"
         "attached for it. 'weft volume inspect' shows how far it is and what the last one found.\n"},
        {verb::volume_grow,
         "volume",
         {"grow", "expand", "resize"},
         "NAME",
         "Make a volume larger, also while it is used",
         "      --size SIZE           what it is to have in all, such as 20GiB\n",
         "Its file system grows with it: at once on the kernel path (nbd and device-mapper), at the next mount on the\n"
         "portable one. A volume never becomes smaller.\n"},
        {verb::volume_attach,
         "volume",
         {"attach"},
         "NAME",
         "Attach a volume to this node without mounting it",
         "  -f, --force           take it from another node that is alive: its I/O fails at once and for good\n",
         "Prints the NBD address of the whole volume. It counts as use until 'weft volume detach'.\n"},
        {verb::volume_detach, "volume", {"detach"}, "NAME", "Undo 'weft volume attach' on this node", "", ""},
        {verb::volume_restart,
         "volume",
         {"restart"},
         "NAME",
         "Replace the volume server of a volume while it is used",
         "      --all             instead of NAME: every volume that is attached on this node, one after the other\n",
         "For upgrades: a volume server goes on with the code that it was started with. The next one takes its place "
         "under\n"
         "the living device (nbd and device-mapper); containers see a pause. Refused for a volume that is attached "
         "portably,\n"
         "whose users would get I/O errors: stop them instead. Ask on the node that uses the volume.\n"},
        {verb::volume_repair,
         "volume",
         {"repair"},
         "NAME",
         "Replace at once the replicas that are missing",
         "",
         "What weftd does by itself after its grace period (repair-after-ms), without waiting and also when many nodes "
         "are\n"
         "away. Returns when the replacements are decided; 'weft volume inspect NAME --watch' shows them being "
         "filled.\n"},
        {verb::volume_recover,
         "volume",
         {"recover"},
         "NAME",
         "Go on from a replica that is not up to date, when no other is left",
         "  --from REPLICA        its id, or at least the first 4 characters of it\n"
         "  --accept-data-loss    needed: what was written since that replica fell behind is lost for good\n",
         "Only when no up-to-date replica can be reached and nobody uses the volume. Replicas that were up to date and "
         "come\n"
         "back later are overwritten where they differ.\n"},
    };
    return table;
}

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> groups = {{
    {"node", "The machines that run weftd"},
    {"drive", "The devices and directories that nodes give to the pool"},
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
  weft drive add /dev/vdb
  weft volume create db --size 20GiB --replicas 3
  docker volume create -d weft -o size=20GiB db
  weft volume show db --watch
  weft -o json volume ls
)";
}

}  // namespace weft::cli
