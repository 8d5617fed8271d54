// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/command.hpp"

#include <boost/program_options.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "orchestrator/cli/help.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/option_words.hpp"

namespace weft::cli {

namespace options = boost::program_options;

namespace {

struct usage_error {
    std::string text;
};

/// Positions of group, command and the rest: the first words that are neither global options nor their values.
struct split_line {
    std::vector<std::string> names;  // group, command
    std::vector<std::string> rest;   // everything else, in order
};

bool takes_value(std::string_view word) {
    return word == "--socket" || word == "-o" || word == "--output" || word == "--timeout";
}

split_line split(const std::vector<std::string>& words) {
    split_line line;
    bool only_arguments = false;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        const bool is_option = word.size() > 1 && word[0] == '-';
        only_arguments = only_arguments || word == "--";
        if (!only_arguments && takes_value(word) && i + 1 < words.size()) {
            line.rest.push_back(word);
            line.rest.push_back(words[++i]);
        } else if (!only_arguments && !is_option && line.names.size() < 2 &&
                   !(line.names.size() == 1 && is_single(line.names[0]))) {
            line.names.push_back(word);
        } else {
            line.rest.push_back(word);
        }
    }
    return line;
}

options::options_description global_options() {
    options::options_description all;
    all.add_options()("socket", options::value<std::string>())("output,o", options::value<std::string>())(
        "timeout", options::value<std::string>())("help,h", "")("argument", options::value<std::vector<std::string>>());
    return all;
}

void add_command_options(options::options_description& all, verb what) {
    if (what == verb::volume_create)
        all.add_options()("size", options::value<std::string>())("replicas", options::value<std::string>())(
            "fs", options::value<std::string>())("min-replicas", options::value<std::string>())(
            "provisioning", options::value<std::string>())("checksums", options::value<std::string>())(
            "on-full", options::value<std::string>())("resync-rate", options::value<std::string>())(
            "scrub-every", options::value<std::string>())("encrypt", options::value<std::string>())(
            "stripes", options::value<std::string>())("layout", options::value<std::string>())(
            "opt", options::value<std::vector<std::string>>());
    if (what == verb::drive_add) all.add_options()("erase", options::value<std::string>());
    if (what == verb::volume_attach || what == verb::node_forget) all.add_options()("force,f", "");
    if (what == verb::volume_recover) all.add_options()("from", options::value<std::string>())("accept-data-loss", "");
    if (what == verb::volume_scrub) all.add_options()("wait", "");
    if (what == verb::volume_restart) all.add_options()("all", "");
    if (what == verb::volume_grow) all.add_options()("size", options::value<std::string>());
    if (what == verb::volume_inspect) all.add_options()("watch,w", "");
    if (what == verb::events) all.add_options()("newest,n", options::value<std::string>());
}

std::uint64_t parse_count(std::string_view option, const std::string& text, std::uint64_t max) {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || value < 1 || value > max)
        throw usage_error{
            fmt::format("{} must be a whole number from 1 to {}, not '{}'", option, max, printable(text))};
    return value;
}

void add_option(std::map<std::string, std::string>& all, const std::string& key, const std::string& value) {
    if (!all.emplace(key, value).second) throw usage_error{fmt::format("option '{}' is given twice", printable(key))};
}

/// "KEY=VALUE"; `what` stands before it in the error.
void add_pair(std::string_view what, const std::string& pair, std::map<std::string, std::string>& all) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0)
        throw usage_error{fmt::format("{}'{}' is not of the form KEY=VALUE", what, printable(pair))};
    add_option(all, pair.substr(0, equals), pair.substr(equals + 1));
}

void read_create_options(const options::variables_map& given, invocation& run) {
    for (const char* key : {"size", "replicas", "fs", "min-replicas", "provisioning", "checksums", "on-full",
                            "resync-rate", "scrub-every", "stripes", "layout", "encrypt"})
        if (given.count(key) != 0) add_option(run.options, key, given[key].as<std::string>());
    if (given.count("opt") == 0) return;
    for (const std::string& pair : given["opt"].as<std::vector<std::string>>()) add_pair("--opt ", pair, run.options);
}

void read_argument(const command_help& command, const options::variables_map& given, invocation& run) {
    std::vector<std::string> arguments;
    if (given.count("argument") != 0) arguments = given["argument"].as<std::vector<std::string>>();
    run.all = given.count("all") != 0;
    const std::size_t wanted = command.argument.empty() || run.all ? 0 : 1;
    if (command.what == verb::volume_set) {
        for (std::size_t i = wanted; i < arguments.size(); ++i) add_pair("", arguments[i], run.options);
        if (arguments.size() == wanted) throw usage_error{"KEY=VALUE is missing"};
        arguments.resize(std::min(arguments.size(), wanted));
    }
    if (arguments.size() > wanted)
        throw usage_error{fmt::format("there is nothing to do with '{}'", printable(arguments[wanted]))};
    if (arguments.size() < wanted) throw usage_error{fmt::format("{} is missing", command.argument)};
    if (wanted == 0) return;
    run.argument = arguments[0];
    if (run.argument.empty()) throw usage_error{fmt::format("{} is empty", command.argument)};
    if (run.argument.find('\0') != std::string::npos || !is_utf8(run.argument))
        throw usage_error{fmt::format("{} is not UTF-8 text", command.argument)};
}

void read_globals(const options::variables_map& given, invocation& run) {
    if (given.count("socket") != 0) run.socket = given["socket"].as<std::string>();
    if (given.count("socket") != 0 && run.socket.empty()) throw usage_error{"--socket is empty"};
    if (given.count("timeout") != 0)
        run.patience = std::chrono::seconds(parse_count("--timeout", given["timeout"].as<std::string>(), 86400));
    if (given.count("output") == 0) return;
    const std::string format = given["output"].as<std::string>();
    if (format != "json" && format != "table")
        throw usage_error{fmt::format("-o must be json or table, not '{}'", printable(format))};
    run.format = format == "json" ? output_format::json : output_format::table;
}

/// What a script's unset variable makes of `--size "$size"` must not mean something else than what was meant.
void refuse_empty_values(const options::options_description& known, const options::variables_map& given) {
    for (const auto& [name, value] : given) {
        const auto* text = boost::any_cast<std::string>(&value.value());
        const bool flag = known.find(name, false).semantic()->max_tokens() == 0;  // kept as an empty text, too
        if (text != nullptr && text->empty() && !flag) throw usage_error{fmt::format("--{} is empty", name)};
    }
}

/// Nothing on the left may be an unknown option: program_options says so by exception.
parsed_line parse_command(const command_help& command, const std::vector<std::string>& rest) {
    for (const std::string& word : rest)
        if (has_placeholder(word))
            throw usage_error{
                fmt::format("'{}' has letters between two '%': that is understood nowhere here", printable(word))};
    auto known = global_options();
    add_command_options(known, command.what);
    options::positional_options_description positional;
    positional.add("argument", -1);
    namespace syntax = options::command_line_style;
    options::variables_map given;
    options::store(options::command_line_parser(rest)
                       .options(known)
                       .positional(positional)
                       .style(syntax::unix_style & ~syntax::allow_guessing)
                       .run(),
                   given);
    if (given.count("help") != 0) return {std::nullopt, help_of(command), ""};
    refuse_empty_values(known, given);
    invocation run;
    run.what = command.what;
    read_globals(given, run);
    read_argument(command, given, run);
    if (command.what == verb::volume_create) read_create_options(given, run);
    run.force = given.count("force") != 0;
    run.accept_data_loss = given.count("accept-data-loss") != 0;
    if (command.what == verb::volume_grow) {
        if (given.count("size") == 0) throw usage_error{"--size is missing: how large is the volume to be, in all?"};
        run.size = given["size"].as<std::string>();
    }
    if (given.count("erase") != 0) run.erase = given["erase"].as<std::string>();
    if (given.count("from") != 0) run.from = given["from"].as<std::string>();
    if (command.what == verb::volume_recover && run.from.empty())
        throw usage_error{"--from is missing: name the replica to go on from; 'weft volume inspect NAME' shows them"};
    run.watch = given.count("watch") != 0;
    run.wait = given.count("wait") != 0;
    if (run.watch && run.format == output_format::json)
        throw usage_error{"--watch draws for people; programs ask again with -o json instead"};
    if (given.count("newest") != 0) run.newest = parse_count("-n", given["newest"].as<std::string>(), 1000);
    return {run, "", ""};
}

bool wants_help(const std::vector<std::string>& rest) {
    return std::find_if(rest.begin(), rest.end(),
                        [](const std::string& word) { return word == "--help" || word == "-h"; }) != rest.end();
}

parsed_line wrong(const std::string& text, const std::string& where) {
    return {std::nullopt, "", fmt::format("{}\nSee '{} --help'.", text, where)};
}

parsed_line parse_help_words(const std::vector<std::string>& words) {
    if (words.empty()) return {std::nullopt, manual(), ""};
    const std::string& group = words[0];
    if (words.size() == 1 && is_group(group)) return {std::nullopt, help_of_group(group), ""};
    const command_help* command = find_command(group, words.size() > 1 ? words[1] : "");
    if (command != nullptr) return {std::nullopt, help_of(*command), ""};
    return wrong(fmt::format("there is no command '{}'", printable(fmt::format("{}", fmt::join(words, " ")))), "weft");
}

}  // namespace

parsed_line parse_line(const std::vector<std::string>& words) {
    const split_line line = split(words);
    if (line.names.empty()) {
        if (wants_help(line.rest)) return {std::nullopt, short_help(), ""};
        if (std::find(line.rest.begin(), line.rest.end(), "--version") != line.rest.end())
            return {std::nullopt, "weft " WEFT_VERSION "\n", ""};
        const auto option = std::find_if(line.rest.begin(), line.rest.end(), [](const std::string& word) {
            return word.size() > 1 && word[0] == '-' && !takes_value(word);
        });
        if (option != line.rest.end())
            return wrong(fmt::format("unknown option '{}' and no command", printable(*option)), "weft");
        return wrong("say what to do, for example 'weft status' or 'weft volume ls'", "weft");
    }
    const std::string& group = line.names[0];
    if (group == "help") {
        std::vector<std::string> topic(line.names.begin() + 1, line.names.end());
        for (const auto& word : line.rest)
            if (!word.empty() && word[0] != '-') topic.push_back(word);
        return parse_help_words(topic);
    }
    const std::string name = line.names.size() > 1 ? line.names[1] : "";
    const command_help* command = find_command(group, name);
    if (command == nullptr) {
        if (!is_group(group)) return wrong(fmt::format("there is no command '{}'", printable(group)), "weft");
        if (name.empty() && wants_help(line.rest)) return {std::nullopt, help_of_group(group), ""};
        if (name.empty()) return wrong(fmt::format("say what to do with a {}", group), "weft " + group);
        return wrong(fmt::format("there is no command '{} {}'", group, printable(name)), "weft " + group);
    }
    const std::string where = title_of(*command);
    try {
        return parse_command(*command, line.rest);
    } catch (const usage_error& problem) {
        return wrong(fmt::format("{}: {}", where, problem.text), where);
    } catch (const options::error& problem) {
        return wrong(fmt::format("{}: {}", where, printable(problem.what(), 200)), where);
    }
}

}  // namespace weft::cli
