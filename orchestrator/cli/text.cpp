// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "orchestrator/core/names.hpp"

namespace weft::cli {

namespace {

constexpr std::string_view reset = "\x1b[0m";

std::string_view code_of(tone as) {
    switch (as) {
        case tone::plain: return "";
        case tone::good: return "\x1b[32m";
        case tone::warning: return "\x1b[33m";
        case tone::bad: return "\x1b[31m";
        case tone::dim: return "\x1b[2m";
        case tone::heading: return "\x1b[1m";
    }
    return "";
}

bool continues(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

/// Bytes of the escape sequence at the front, 0 if there is none.
std::size_t escape_length(std::string_view text) {
    if (text.size() < 2 || text[0] != '\x1b' || text[1] != '[') return 0;
    const std::size_t end = text.find('m');
    return end == std::string_view::npos ? text.size() : end + 1;
}

std::string padded(const std::string& text, std::size_t columns, bool right) {
    const std::size_t width = width_of(text);
    const std::string space(columns > width ? columns - width : 0, ' ');
    return right ? space + text : text + space;
}

}  // namespace

std::string paint(const style& how, tone as, std::string_view text) {
    if (!how.colour || as == tone::plain || text.empty()) return std::string(text);
    return fmt::format("{}{}{}", code_of(as), text, reset);
}

std::string clean(std::string_view text) {
    return printable(text, std::numeric_limits<std::size_t>::max());
}

std::size_t width_of(std::string_view text) {
    std::size_t width = 0;
    while (!text.empty()) {
        const std::size_t escape = escape_length(text);
        if (escape == 0 && !continues(text[0])) ++width;
        text.remove_prefix(std::max<std::size_t>(escape, 1));
    }
    return width;
}

std::string cut_to(std::string_view text, std::size_t columns) {
    std::string kept;
    std::size_t width = 0;
    bool painted = false;
    while (!text.empty()) {
        const std::size_t escape = escape_length(text);
        if (escape > 0) {
            painted = text.substr(0, escape) != reset;
            kept += text.substr(0, escape);
            text.remove_prefix(escape);
            continue;
        }
        if (!continues(text[0]) && ++width > columns) return painted ? kept.append(reset) : kept;
        kept.push_back(text[0]);
        text.remove_prefix(1);
    }
    return kept;
}

std::string render_table(const style& how, const std::vector<std::string>& headings,
                         const std::vector<std::vector<cell>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& heading : headings) widths.push_back(width_of(heading));
    for (const auto& row : rows)
        for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i)
            widths[i] = std::max(widths[i], width_of(row[i].text));
    std::vector<cell> first;
    for (std::size_t i = 0; i < headings.size(); ++i) {
        const bool right = !rows.empty() && i < rows[0].size() && rows[0][i].right;
        first.push_back({headings[i], tone::heading, right});
    }
    std::string table;
    const auto add = [&](const std::vector<cell>& row) {
        std::string line;
        for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) {
            const bool last = i + 1 == widths.size();
            const std::string shown =
                last && !row[i].right ? row[i].text : padded(row[i].text, widths[i], row[i].right);
            line += paint(how, row[i].as, shown);
            if (!last) line += "  ";
        }
        table += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    };
    add(first);
    for (const auto& row : rows) add(row);
    return table;
}

std::string render_bar(const style& how, double part, std::size_t columns) {
    const double clamped = std::clamp(std::isnan(part) ? 0.0 : part, 0.0, 1.0);
    const auto full = static_cast<std::size_t>(clamped * static_cast<double>(columns));
    std::string bar;
    for (std::size_t i = 0; i < columns; ++i) bar += how.unicode ? (i < full ? "█" : "░") : (i < full ? "#" : "-");
    return bar;
}

std::string render_duration(std::chrono::milliseconds length) {
    const auto ms = std::max<std::int64_t>(length.count(), 0);
    if (ms < 1000) return fmt::format("{} ms", ms);
    if (ms < 10'000) return fmt::format("{}.{} s", ms / 1000, ms % 1000 / 100);
    const std::int64_t s = ms / 1000;
    if (s < 60) return fmt::format("{} s", s);
    if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
    return fmt::format("{} d {} h", s / 86400, s % 86400 / 3600);
}

}  // namespace weft::cli
