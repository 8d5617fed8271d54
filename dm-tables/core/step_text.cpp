// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/step_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "dm-tables/core/text.hpp"

namespace weft::dm {

namespace {

constexpr std::array all_verbs = {step::verb::create,  step::verb::load,   step::verb::doubt, step::verb::clear,
                                  step::verb::suspend, step::verb::resume, step::verb::remove};
constexpr std::size_t words_of_step = 4;
constexpr std::size_t words_of_row = 3;  // and the parameters

std::optional<step::verb> verb_of(std::string_view word) {
    for (const auto verb : all_verbs)
        if (to_string(verb) == word) return verb;
    return std::nullopt;
}

bool is_word(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

class reader {
public:
    explicit reader(std::string_view text) : left_(text) {}

    [[nodiscard]] bool at_end() const { return left_.empty(); }

    result<raw_step> next() {
        const auto words = words_of(take_line());
        const auto verb = words.size() == words_of_step ? verb_of(words[0]) : std::nullopt;
        const auto rows = verb ? number_of(words[3]) : std::nullopt;
        if (!rows) return wrong("VERB NAME UUID ROWS");
        raw_step read{*verb, std::string(words[1]), std::string(words[2]), {}};
        for (std::uint64_t i = 0; i < *rows; ++i) {
            TRY_ASSIGN(auto row, next_row());
            read.rows.push_back(std::move(row));
        }
        return read;
    }

private:
    result<raw_row> next_row() {
        const auto words = words_of(take_line());
        const auto start = words.size() >= words_of_row ? number_of(words[0]) : std::nullopt;
        const auto length = start ? number_of(words[1]) : std::nullopt;
        if (!length) return wrong("START LENGTH TARGET PARAMETERS");
        raw_row row{*start, *length, std::string(words[2]), {}};
        for (std::size_t i = words_of_row; i < words.size(); ++i)
            row.params += (i == words_of_row ? "" : " ") + std::string(words[i]);
        return row;
    }

    std::string_view take_line() {
        ++line_;
        const auto end = left_.find('\n');
        const auto line = left_.substr(0, end);
        left_.remove_prefix(end == std::string_view::npos ? left_.size() : end + 1);
        return line;
    }

    [[nodiscard]] error wrong(std::string_view expected) const {
        return error{errc::corrupt, fmt::format("line {} of the steps is not {}", line_, expected)};
    }

    std::string_view left_;
    unsigned line_ = 0;
};

}  // namespace

result<std::vector<raw_step>> render(const std::vector<step>& steps) {
    std::vector<raw_step> rendered;
    for (const step& it : steps) {
        if (!is_word(it.name) || !is_word(it.uuid))
            return error{errc::invalid_argument,
                         fmt::format("'{}', UUID '{}', is not a device's name", shown(it.name), shown(it.uuid))};
        raw_step one{it.what, it.name, it.uuid, {}};
        if (it.what == step::verb::load || it.what == step::verb::doubt) {
            if (auto checked = check(it.rows); checked.has_error())
                return checked.error().within(fmt::format("{} {}", to_string(it.what), it.name));
            one.rows = render(it.rows);
        }
        rendered.push_back(std::move(one));
    }
    return rendered;
}

std::string encode(const std::vector<raw_step>& steps) {
    std::string text;
    for (const raw_step& it : steps)
        text += fmt::format("{} {} {} {}\n{}", to_string(it.what), it.name, it.uuid, it.rows.size(), to_text(it.rows));
    return text;
}

result<std::vector<raw_step>> decode_steps(std::string_view text) {
    std::vector<raw_step> steps;
    for (reader from(text); !from.at_end();) {
        TRY_ASSIGN(auto next, from.next());
        steps.push_back(std::move(next));
    }
    return steps;
}

}  // namespace weft::dm
