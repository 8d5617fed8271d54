// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/crypt_device.hpp"

#include <algorithm>
#include <iterator>
#include <limits>

#include "dm-tables/core/text.hpp"

namespace weft::dm {

namespace {
constexpr std::string_view luks_prefix = "CRYPT-LUKS2-";
}

std::string crypt_name(std::string_view volume_device_name) {
    return std::string(volume_device_name) + std::string(crypt_suffix);
}

std::string crypt_uuid_prefix(std::string_view luks_uuid) {
    std::string text(luks_prefix);
    std::copy_if(luks_uuid.begin(), luks_uuid.end(), std::back_inserter(text), [](char c) { return c != '-'; });
    return text + "-";
}

bool is_crypt_device(std::string_view name, std::string_view uuid) {
    return name.starts_with(name_prefix) && name.ends_with(crypt_suffix) && uuid.starts_with(luks_prefix);
}

const observed_device* find_crypt(const observation& there, std::string_view volume_device_name) {
    const std::string name = crypt_name(volume_device_name);
    for (const observed_device& device : there.devices)
        if (device.name == name && is_crypt_device(device.name, device.uuid)) return &device;
    return nullptr;
}

std::optional<std::uint64_t> crypt_reach_sectors(const raw_table& rows) {
    constexpr std::size_t offset_word = 4;
    if (rows.size() != 1 || rows[0].type != "crypt") return std::nullopt;
    const auto words = words_of(rows[0].params);
    if (words.size() <= offset_word) return std::nullopt;
    const auto offset = number_of(words[offset_word]);
    if (!offset || *offset > std::numeric_limits<std::uint64_t>::max() - rows[0].length_sectors) return std::nullopt;
    return *offset + rows[0].length_sectors;
}

}  // namespace weft::dm
