// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/drive_device.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

/// Without what a shell or our own list would take for something else. Both sides of a comparison went through here.
std::string plain_word(std::string_view text) {
    std::string word;
    for (const char c : text) {
        const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                           c == '_' || c == '.';
        word += plain ? c : '_';
    }
    return word;
}

std::vector<std::string> split_list(std::string_view text) {
    std::vector<std::string> items;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(','), text.size());
        if (end > 0) items.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    std::sort(items.begin(), items.end());
    items.erase(std::unique(items.begin(), items.end()), items.end());
    return items;
}

const drive_record* drive_with(const cluster_view& view, const device_facts& device) {
    for (const auto& [id, drive] : view.drives)
        for (const auto& found : device.signatures)
            if (drive.record.is_block() && drive.record.device.filesystem == found.id) return &drive.record;
    return nullptr;
}

std::optional<drive_claim> claim_of(const device_facts& device, const std::vector<drive_claim>& claims) {
    for (const auto& claim : claims) {
        const bool made = device.signatures.size() == 1 && device.signatures[0].type == "xfs" &&
                          device.signatures[0].id == claim.filesystem;
        const bool marked = device.mark == claim.filesystem && claim.phase == claim_phase::formatting;
        if (made || marked) return claim;
    }
    return std::nullopt;
}

status check_fit(const device_facts& device) {
    if (device.of_weft)
        return error{errc::invalid_argument,
                     fmt::format("{} is part of a Weft volume: a drive on it would wait for itself; name a disk, a "
                                 "partition or a logical volume",
                                 device.name)};
    if (!device.users.empty())
        return error{errc::busy,
                     fmt::format("{} is in use: {}; nothing was touched. Free it first, or name another device",
                                 device.name, fmt::join(device.users, ", "))};
    if (device.read_only)
        return error{errc::invalid_argument, fmt::format("{} is read-only: name a device that can be written to, or "
                                                         "see `blockdev --setrw`",
                                                         device.name)};
    if (device.size_bytes < drive_device_min_bytes)
        return error{errc::invalid_argument,
                     fmt::format("{} is too small for a drive: it has {}, at least {} are needed", device.name,
                                 render_size(device.size_bytes), render_size(drive_device_min_bytes))};
    return ok();
}

}  // namespace

std::string encode(const drive_claim& claim) {
    return fmt::format("{} {} {}\n", claim.drive.str(),
                       claim.phase == claim_phase::formatting ? "formatting" : "formatted", claim.device);
}

result<drive_claim> decode_claim(const std::string& filesystem, std::string_view text) {
    const std::size_t device = std::min(text.rfind(' '), text.size());
    for (const auto phase : {claim_phase::formatting, claim_phase::formatted}) {
        drive_claim claim{drive_id{std::string(text.substr(0, text.find(' ')))}, filesystem, phase,
                          std::string(text.substr(std::min(device + 1, text.size())))};
        if (!claim.device.empty()) claim.device.pop_back();  // the end of the line
        if (is_uuid(claim.drive.str()) && is_uuid(filesystem) && encode(claim) == text) return claim;
    }
    return error{errc::corrupt,
                 fmt::format("the claim of {} is not `DRIVE formatting DEVICE` or `DRIVE formatted DEVICE`",
                             printable(filesystem))};
}

std::vector<std::string> erase_names(const device_facts& device) {
    const auto by_content = [&](std::string_view type) { return fmt::format("{}:{:08x}", type, device.checksum); };
    std::vector<std::string> names;
    for (const auto& found : device.signatures) {
        const std::string type = plain_word(found.type);
        names.push_back(found.id.empty() ? by_content(type) : fmt::format("{}:{}", type, plain_word(found.id)));
    }
    if (!device.mark.empty()) names.push_back("weft-unfinished:" + plain_word(device.mark));
    if (device.data) names.push_back(by_content("data"));
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
}

std::string describe_content(const device_facts& device) {
    std::vector<std::string> parts;
    for (const auto& found : device.signatures) {
        std::string text = fmt::format("'{}'", printable(found.type));
        if (!found.id.empty()) text += fmt::format(" with UUID {}", printable(found.id));
        if (!found.label.empty()) text += fmt::format(" and label '{}'", printable(found.label));
        parts.push_back(std::move(text));
    }
    if (!device.mark.empty()) parts.push_back("a drive that a Weft did not finish making");
    if (device.data) parts.emplace_back("data that nothing recognises");
    std::string text = parts.empty() ? std::string("nothing") : fmt::format("{}", fmt::join(parts, ", "));
    if (!device.partitions.empty())
        text += fmt::format(", with the partition{} {}", device.partitions.size() == 1 ? "" : "s",
                            fmt::join(device.partitions, ", "));
    return text;
}

result<std::optional<drive_claim>> admit_device(const device_facts& device, std::string_view erase,
                                                const std::vector<drive_claim>& claims, const cluster_view& view) {
    if (const drive_record* known = drive_with(view, device))
        return error{errc::already_exists,
                     fmt::format("{} is drive {} of node {} already", device.name, known->id.str(), known->node.str())};
    TRY(check_fit(device));
    const auto found = erase_names(device);
    const auto wanted = split_list(erase);
    const auto claim = claim_of(device, claims);
    // Named in full: the operator wants it anew, whatever an earlier attempt left.
    if (claim && (claim->phase == claim_phase::formatting || wanted != found)) return claim;
    if (wanted == found) return std::optional<drive_claim>{};
    if (found.empty())
        return error{errc::invalid_argument,
                     fmt::format("{} is blank, so --erase {} cannot be meant for it: check the device's name, or leave "
                                 "--erase away",
                                 device.name, printable(erase, 200))};
    const std::string advice = fmt::format(
        "nothing was touched. If nobody needs it any more: weft drive add {} "
        "--erase {}",
        device.name, fmt::join(found, ","));
    if (wanted.empty())
        return error{errc::invalid_argument,
                     fmt::format("{} is not blank, it has {}; {}", device.name, describe_content(device), advice)};
    return error{errc::invalid_argument,
                 fmt::format("--erase {} is not what is on {}, which has {}; {}", printable(erase, 200), device.name,
                             describe_content(device), advice)};
}

}  // namespace weft
