// SPDX-License-Identifier: Apache-2.0
// The command line of `weft` as a value: which command, with what. Pure; knows no socket and no terminal.
//
//   weft [--socket PATH] [-o table|json] [--timeout SECONDS] GROUP COMMAND [ARGUMENT] [OPTIONS]
// Global options may stand anywhere. Abbreviations of options are not accepted: a script must not change its meaning
// when a later version gets another option.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace weft::cli {

enum class verb {
    node_ls,
    node_forget,
    drive_add,
    drive_ls,
    drive_inspect,
    drive_rm,
    volume_create,
    volume_ls,
    volume_inspect,
    volume_rm,
    volume_set,
    volume_scrub,
    volume_grow,
    volume_attach,
    volume_detach,
    volume_restart,
    volume_repair,
    volume_recover,
    status,
    events,
};

enum class output_format { table, json };

struct invocation {
    verb what = verb::status;
    std::string argument;                        // NAME, PATH or ID; empty where the command takes none
    std::map<std::string, std::string> options;  // volume create, volume set
    bool force = false, watch = false, wait = false;
    bool all = false;   // volume restart: every volume that is attached here, instead of NAME
    std::string size;   // volume grow
    std::string erase;  // drive add: what may be lost
    std::string from;   // volume recover: a replica's id or the beginning of it
    bool accept_data_loss = false;
    std::size_t newest = 50;  // events
    std::string socket;       // empty: as the environment says
    output_format format = output_format::table;
    std::chrono::seconds patience{120};
};

/// Exactly one of the three is set.
struct parsed_line {
    std::optional<invocation> run;
    std::string help;     // asked for: standard output, exit 0
    std::string problem;  // wrong: standard error, exit 2; ends with what to do next
};

/// `words`: argv without argv[0].
parsed_line parse_line(const std::vector<std::string>& words);

/// The whole manual, as `weft help` prints it.
std::string manual();

}  // namespace weft::cli
