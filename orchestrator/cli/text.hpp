// SPDX-License-Identifier: Apache-2.0
// Text for a terminal or a pipe: aligned tables, durations, bars. Pure; any thread.
//
// Whatever came from outside passes through `clean`, so that an event's text cannot move the cursor or change colours.
// Widths count UTF-8 code points; Weft's own texts have no wide or combining ones.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace weft::cli {

/// How the reader wants it. `unicode`: the locale is UTF-8.
struct style {
    bool colour = false;
    bool unicode = true;
};

enum class tone { plain, good, warning, bad, dim, heading };

/// `text` in a tone's colour, unchanged without colour.
std::string paint(const style& how, tone as, std::string_view text);

/// Control characters and broken UTF-8 made visible.
std::string clean(std::string_view text);

/// Code points; escape sequences that `paint` wrote do not count.
std::size_t width_of(std::string_view text);

/// At most `columns` wide; colours are closed. For redrawing: a wrapped line would break the count of lines.
std::string cut_to(std::string_view text, std::size_t columns);

struct cell {
    std::string text;
    tone as = tone::plain;
    bool right = false;  // numbers
};

/// Columns two spaces apart, no trailing blanks, a heading even without rows (programs that cut columns rely on it).
std::string render_table(const style& how, const std::vector<std::string>& headings,
                         const std::vector<std::vector<cell>>& rows);

/// "█████░░░░░" or "#####-----". `part` is clamped to 0..1.
std::string render_bar(const style& how, double part, std::size_t columns);

/// "850 ms", "8.2 s", "3 min 20 s", "2 h 5 min", "3 d 4 h".
std::string render_duration(std::chrono::milliseconds length);

}  // namespace weft::cli
