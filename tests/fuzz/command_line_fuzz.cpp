// SPDX-License-Identifier: Apache-2.0
// The command line of `weft`.
//
// Input: words, one per line.
// Properties: exactly one of run, help and problem comes out and nothing is thrown; a problem says where to read on; a
// command has the argument that it needs, within limits; written out as words again it is the same command.
#include <array>

#include "orchestrator/cli/command.hpp"
#include "orchestrator/core/names.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::cli;

namespace {

using words = std::vector<std::string>;

struct spelling {
    verb what;
    words names;
    bool has_argument;
};
const std::array<spelling, 20> spellings = {{{verb::node_ls, {"node", "ls"}, false},
                                             {verb::node_forget, {"node", "forget"}, true},
                                             {verb::drive_add, {"drive", "add"}, true},
                                             {verb::drive_ls, {"drive", "ls"}, false},
                                             {verb::drive_inspect, {"drive", "inspect"}, true},
                                             {verb::drive_rm, {"drive", "rm"}, true},
                                             {verb::volume_create, {"volume", "create"}, true},
                                             {verb::volume_ls, {"volume", "ls"}, false},
                                             {verb::volume_inspect, {"volume", "inspect"}, true},
                                             {verb::volume_rm, {"volume", "rm"}, true},
                                             {verb::volume_set, {"volume", "set"}, true},
                                             {verb::volume_scrub, {"volume", "scrub"}, true},
                                             {verb::volume_grow, {"volume", "grow"}, true},
                                             {verb::volume_restart, {"volume", "restart"}, true},
                                             {verb::volume_attach, {"volume", "attach"}, true},
                                             {verb::volume_detach, {"volume", "detach"}, true},
                                             {verb::volume_repair, {"volume", "repair"}, true},
                                             {verb::volume_recover, {"volume", "recover"}, true},
                                             {verb::status, {"status"}, false},
                                             {verb::events, {"events"}, false}}};

/// The canary has no room for more events than it shows by default.
parsed_line parse(const words& line) {
    parsed_line parsed = parse_line(line);
    if (fuzz::canary && parsed.run && parsed.run->what == verb::events && parsed.run->newest > 50) parsed.run.reset();
    return parsed;
}

words render(const invocation& it) {
    words line;
    bool has_argument = false;
    for (const spelling& one : spellings) {
        if (one.what != it.what) continue;
        line = one.names;
        has_argument = one.has_argument;
    }
    line.push_back("--timeout=" + std::to_string(it.patience.count()));
    if (!it.socket.empty()) line.push_back("--socket=" + it.socket);
    line.push_back(it.format == output_format::json ? "--output=json" : "--output=table");
    const bool pairs_last = it.what == verb::volume_set;
    if (!pairs_last)
        for (const auto& [key, value] : it.options) line.push_back("--opt=" + key + "=" + value);
    if (it.wait) line.push_back("--wait");
    if (it.all) line.push_back("--all");
    if (!it.size.empty()) line.push_back("--size=" + it.size);
    if (it.force) line.push_back("--force");
    if (it.accept_data_loss) line.push_back("--accept-data-loss");
    if (!it.from.empty()) line.push_back("--from=" + it.from);
    if (!it.erase.empty()) line.push_back("--erase=" + it.erase);
    if (it.watch) line.push_back("--watch");
    if (it.what == verb::events) line.push_back("--newest=" + std::to_string(it.newest));
    if (has_argument && !it.all) {
        line.push_back("--");
        line.push_back(it.argument);
    }
    if (pairs_last)
        for (const auto& [key, value] : it.options) line.push_back(key + "=" + value);
    return line;
}

bool same(const invocation& one, const invocation& other) {
    return one.what == other.what && one.argument == other.argument && one.options == other.options &&
           one.force == other.force && one.from == other.from && one.accept_data_loss == other.accept_data_loss &&
           one.wait == other.wait && one.all == other.all && one.size == other.size && one.erase == other.erase &&
           one.watch == other.watch && one.newest == other.newest && one.socket == other.socket &&
           one.format == other.format && one.patience == other.patience;
}

void check_run(const invocation& it) {
    for (const spelling& one : spellings)
        if (one.what == it.what) PROPERTY(one.has_argument == (!it.argument.empty() || it.all), "'{}'", it.argument);
    PROPERTY(is_utf8(it.argument) && it.argument.find('\0') == std::string::npos, "'{}'", it.argument);
    PROPERTY(it.newest >= 1 && it.newest <= 1000, "{}", it.newest);
    PROPERTY(it.patience.count() >= 1 && it.patience.count() <= 86400, "{} s", it.patience.count());
    const parsed_line again = parse_line(render(it));
    PROPERTY(again.run.has_value(), "its own words are refused: {}", again.problem);
    PROPERTY(same(*again.run, it), "not the same again: '{}'", it.argument);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    words line;
    while (!input.empty()) line.emplace_back(input.until('\n'));
    const parsed_line parsed = parse(line);
    const int outcomes = (parsed.run ? 1 : 0) + (parsed.help.empty() ? 0 : 1) + (parsed.problem.empty() ? 0 : 1);
    PROPERTY(outcomes == 1, "{} outcomes", outcomes);
    if (parsed.run) check_run(*parsed.run);
    if (!parsed.problem.empty()) {
        PROPERTY(parsed.problem.find("\nSee 'weft") != std::string::npos, "a dead end: {}", parsed.problem);
        const std::string text = parsed.problem.substr(0, parsed.problem.find("\nSee 'weft"));
        fuzz::check_error(error{errc::invalid_argument, text}, errc::invalid_argument);
    }
    return 0;
}
