// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "dm-tables/core/text.hpp"

namespace weft::dm {

namespace {

template <typename... Handlers>
struct overloaded : Handlers... {
    using Handlers::operator()...;
};
template <typename... Handlers>
overloaded(Handlers...) -> overloaded<Handlers...>;

/// Printable ASCII without the space: what may stand between two spaces of a parameter line.
bool is_word(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

error wrong(std::string text) {
    return error{errc::invalid_argument, std::move(text)};
}

status check_device(std::string_view path) {
    if (path.empty()) return wrong("a device's path is empty");
    if (path[0] != '/' || !is_word(path))
        return wrong(fmt::format("device '{}' is not an absolute path of printable characters without white space",
                                 shown(path)));
    return ok();
}

status check_area(const linear_target& area, std::uint64_t length) {
    TRY(check_device(area.device));
    if (area.offset_sectors > std::numeric_limits<std::uint64_t>::max() - length)
        return wrong(fmt::format("offset {} on {} plus its length overflows", area.offset_sectors, shown(area.device)));
    return ok();
}

status check_target(const linear_target& it, std::uint64_t length) {
    return check_area(it, length);
}

status check_target(const striped_target& it, std::uint64_t length) {
    if (it.stripes.size() < 2) return wrong("a striped row needs at least two stripes");
    if (!std::has_single_bit(it.chunk_sectors) || it.chunk_sectors < 8)
        return wrong(fmt::format("a chunk of {} sectors is not a power of two of at least 8", it.chunk_sectors));
    if (length % (it.chunk_sectors * it.stripes.size()) != 0)
        return wrong(fmt::format("{} sectors are not a whole number of {} chunks of {} sectors", length,
                                 it.stripes.size(), it.chunk_sectors));
    for (const linear_target& stripe : it.stripes) TRY(check_area(stripe, length / it.stripes.size()));
    return ok();
}

status check_leg(std::size_t index, const raid1_leg& leg) {
    if (leg.missing()) {
        if (leg.rebuild) return wrong(fmt::format("leg {} is missing, so it cannot be rebuilt", index));
        return ok();
    }
    TRY(check_device(leg.meta));
    TRY(check_device(leg.data));
    if (leg.meta == leg.data) return wrong(fmt::format("leg {} has its metadata on its data device", index));
    return ok();
}

status check_target(const raid1_target& it, std::uint64_t length) {
    if (it.legs.size() < 2 || it.legs.size() > raid1_legs_max)
        return wrong(fmt::format("raid1 has {} legs; possible are 2 to {}", it.legs.size(), raid1_legs_max));
    std::size_t good = 0;
    for (std::size_t i = 0; i < it.legs.size(); ++i) {
        TRY(check_leg(i, it.legs[i]));
        good += !it.legs[i].missing() && !it.legs[i].rebuild;
    }
    if (good == 0) return wrong("no leg of raid1 is left that could be copied from");
    if (!std::has_single_bit(it.region_sectors) || it.region_sectors > length)
        return wrong(fmt::format("a region of {} sectors is not a power of two of at most the length, {}",
                                 it.region_sectors, length));
    if (length / it.region_sectors + (length % it.region_sectors != 0) > raid1_regions_max)
        return wrong(fmt::format("{} sectors in regions of {} are more than {} regions", length, it.region_sectors,
                                 raid1_regions_max));
    const bool any_rebuild = std::any_of(it.legs.begin(), it.legs.end(), [](const auto& leg) { return leg.rebuild; });
    if (it.start != raid1_start::by_superblock && any_rebuild)
        return wrong("a leg cannot be rebuilt from legs that are to be made equal, or called equal, in the same table");
    return ok();
}

status check_target(const crypt_target& it, std::uint64_t length) {
    if (!is_word(it.cipher)) return wrong(fmt::format("cipher '{}' is not a word", shown(it.cipher)));
    if (it.key.type != "logon" && it.key.type != "user")
        return wrong(fmt::format("key type '{}' is neither logon nor user", shown(it.key.type)));
    if (it.key.size_bytes == 0 || it.key.size_bytes > 512) return wrong("the key's size is not 1 to 512 bytes");
    if (!is_word(it.key.description)) return wrong("the key's description is not a word");
    for (const std::string& option : it.options)
        if (!is_word(option)) return wrong(fmt::format("option '{}' is not a word", shown(option)));
    return check_area(it.backing, length);
}

status check_target(const error_target& /*it*/, std::uint64_t /*length*/) {
    return ok();
}

/// The words of a target.
class writer {
public:
    std::string operator()(const linear_target& it) { return fmt::format("{} {}", it.device, it.offset_sectors); }

    std::string operator()(const striped_target& it) {
        std::string words = fmt::format("{} {}", it.stripes.size(), it.chunk_sectors);
        for (const linear_target& stripe : it.stripes) words += " " + (*this)(stripe);
        return words;
    }

    /// Optional words in the order in which raid_status (dm-raid.c) gives them back. The chunk of raid1 is 0: it has
    /// none.
    std::string operator()(const raid1_target& it) {
        std::vector<std::string> optional;
        if (it.start == raid1_start::assume_equal) optional.emplace_back("nosync");
        for (std::size_t i = 0; i < it.legs.size(); ++i)
            if (it.legs[i].rebuild) optional.insert(optional.end(), {"rebuild", std::to_string(i)});
        if (it.max_recovery_kib != 0)
            optional.insert(optional.end(), {"max_recovery_rate", std::to_string(it.max_recovery_kib)});
        optional.insert(optional.end(), {"region_size", std::to_string(it.region_sectors)});
        std::string words =
            fmt::format("raid1 {} 0 {} {}", optional.size() + 1, fmt::join(optional, " "), it.legs.size());
        for (const raid1_leg& leg : it.legs)
            words += leg.missing() ? " - -" : fmt::format(" {} {}", leg.meta, leg.data);
        return words;
    }

    std::string operator()(const crypt_target& it) {
        std::string words = fmt::format("{} :{}:{}:{} {} {}", it.cipher, it.key.size_bytes, it.key.type,
                                        it.key.description, it.iv_offset, (*this)(it.backing));
        if (!it.options.empty()) words += fmt::format(" {} {}", it.options.size(), fmt::join(it.options, " "));
        return words;
    }

    std::string operator()(const error_target& /*it*/) { return {}; }
};

std::string type_of(const target& it) {
    return std::visit(
        overloaded{[](const linear_target&) { return "linear"; }, [](const striped_target&) { return "striped"; },
                   [](const raid1_target&) { return "raid"; }, [](const crypt_target&) { return "crypt"; },
                   [](const error_target&) { return "error"; }},
        it);
}

/// A device's path is absolute, and nothing else in a table begins with a slash.
bool is_path(std::string_view word) {
    return word.starts_with('/');
}

/// The words of all rows that are of that kind, in order, once.
std::vector<std::string> words_in(const raw_table& rows, bool (*is_one)(std::string_view)) {
    std::vector<std::string> words;
    for (const raw_row& row : rows)
        for (const std::string_view word : words_of(row.params))
            if (is_one(word) && std::find(words.begin(), words.end(), word) == words.end()) words.emplace_back(word);
    return words;
}

template <typename Row>
std::uint64_t total(const std::vector<Row>& rows) {
    std::uint64_t sum = 0;
    for (const Row& row : rows) sum += row.length_sectors;
    return sum;
}

}  // namespace

status check(const table& rows) {
    if (rows.empty()) return wrong("the table is empty");
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const table_row& row = rows[i];
        if (row.start_sectors != end)
            return wrong(
                fmt::format("row {} starts at {}, but the rows before it end at {}", i, row.start_sectors, end));
        if (row.length_sectors == 0) return wrong(fmt::format("row {} is empty", i));
        if (row.length_sectors > std::numeric_limits<std::uint64_t>::max() / sector_bytes - end)
            return wrong(fmt::format("row {} ends beyond what bytes can count", i));
        end += row.length_sectors;
        const status verdict =
            std::visit([&row](const auto& it) { return check_target(it, row.length_sectors); }, row.what);
        if (verdict.has_error()) return verdict.error().within(fmt::format("row {}", i));
    }
    return ok();
}

raw_table render(const table& rows) {
    raw_table raw;
    for (const table_row& row : rows)
        raw.push_back({row.start_sectors, row.length_sectors, type_of(row.what), std::visit(writer{}, row.what)});
    return raw;
}

std::optional<raw_table> by_number(const raw_table& rows, const device_numbers& numbers) {
    raw_table numbered = rows;
    for (raw_row& row : numbered) {
        std::string params;
        for (const std::string_view word : words_of(row.params)) {
            const auto found = is_path(word) ? numbers.find(word) : numbers.end();
            if (is_path(word) && found == numbers.end()) return std::nullopt;
            params += (params.empty() ? "" : " ") + (is_path(word) ? found->second : std::string(word));
        }
        row.params = std::move(params);
    }
    return numbered;
}

std::optional<raw_table> render_by_number(const table& rows, const device_numbers& numbers) {
    return by_number(render(rows), numbers);
}

std::string to_text(const raw_table& rows) {
    std::string text;
    for (const raw_row& row : rows)
        text += fmt::format("{} {} {}{}{}\n", row.start_sectors, row.length_sectors, row.type,
                            row.params.empty() ? "" : " ", row.params);
    return text;
}

std::vector<std::string> devices_of(const raw_table& rows) {
    return words_in(rows, is_path);
}

std::vector<std::string> devices_of(const table& rows) {
    return devices_of(render(rows));
}

std::vector<std::string> numbers_in(const raw_table& rows) {
    return words_in(rows, is_device_number);
}

std::uint64_t length_sectors(const table& rows) {
    return total(rows);
}

std::uint64_t length_sectors(const raw_table& rows) {
    return total(rows);
}

std::uint64_t choose_region_sectors(std::uint64_t length_sectors) {
    std::uint64_t region = 4096;  // 2 MiB: what LVM takes; a power cut under load resyncs some hundred MiB at worst
    while (length_sectors / region >= raid1_regions_max) region *= 2;
    while (region > length_sectors && region > 1) region /= 2;
    return region;
}

std::string without_key(std::string_view type, std::string_view params) {
    const auto words = words_of(params);
    if (type != "crypt" || words.size() < 2 || words[1].starts_with(':')) return std::string(params);
    std::string masked(words[0]);
    masked += " " + std::string(words[1].size(), '0');
    for (std::size_t i = 2; i < words.size(); ++i) masked += " " + std::string(words[i]);
    return masked;
}

}  // namespace weft::dm
