// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/replica_meta.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/block_sum.hpp"
#include "nbd-backend/core/crc32c.hpp"
#include "nbd-backend/core/export_name.hpp"

namespace weft::core {

namespace {

// FORMAT.md, "A slot" and "A page of the bitmap": offsets in bytes.
namespace at {
constexpr std::size_t magic = 0;
constexpr std::size_t version = 8;
constexpr std::size_t checksum = 12;
constexpr std::size_t incompat = 16;
constexpr std::size_t compat = 24;
constexpr std::size_t generation = 32;
constexpr std::size_t replica = 40;
constexpr std::size_t volume = 56;
constexpr std::size_t size = 72;
constexpr std::size_t region = 80;
constexpr std::size_t bitmap_offset = 88;
constexpr std::size_t bitmap_length = 96;
constexpr std::size_t epoch = 104;
constexpr std::size_t birth = 112;
constexpr std::size_t change_boot = 120;
constexpr std::size_t reserved = 184;
}  // namespace at

namespace page_at {
constexpr std::size_t magic = 0;
constexpr std::size_t checksum = 8;
constexpr std::size_t index = 16;
}  // namespace page_at

constexpr std::size_t uuid_bytes = 16;
static_assert(at::reserved == at::change_boot + boot_id_max);

constexpr std::string_view slot_magic = "WEFTREPL";
constexpr std::string_view page_magic = "WEFTBMAP";
constexpr std::uint64_t birth_equal = 0;
constexpr std::uint64_t birth_added = 1;

template <typename T>
void store(std::span<std::byte> bytes, std::size_t offset, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes[offset + i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
}

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t offset) {
    T value = 0;
    for (std::size_t i = sizeof(T); i-- > 0;) value = static_cast<T>(value << 8 | static_cast<T>(bytes[offset + i]));
    return value;
}

void store_text(std::span<std::byte> bytes, std::size_t offset, std::string_view text) {
    std::memcpy(bytes.data() + offset, text.data(), text.size());
}

bool holds_text(std::span<const std::byte> bytes, std::size_t offset, std::string_view text) {
    return std::memcmp(bytes.data() + offset, text.data(), text.size()) == 0;
}

bool is_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

/// CRC-32C of all bytes with the four of the checksum itself taken as 0.
std::uint32_t checksum_of(std::span<const std::byte> bytes, std::size_t checksum_offset) {
    constexpr std::array<std::byte, sizeof(std::uint32_t)> zero{};
    const auto before = crc32c(zero, crc32c(bytes.first(checksum_offset)));
    return crc32c(bytes.subspan(checksum_offset + zero.size()), before);
}

int nibble(char c) {
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/// The 16 bytes of a UUID in the order in which its digits are written (RFC 4122).
void store_uuid(std::span<std::byte> bytes, std::size_t offset, std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        if (text[i] == '-') {
            ++i;
            continue;
        }
        bytes[offset++] = static_cast<std::byte>(nibble(text[i]) << 4 | nibble(text[i + 1]));
        i += 2;
    }
}

std::string load_uuid(std::span<const std::byte> bytes, std::size_t offset) {
    std::string text;
    for (std::size_t i = 0; i < uuid_bytes; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
        text += fmt::format("{:02x}", std::to_integer<unsigned>(bytes[offset + i]));
    }
    return text;
}

error corrupt(std::string_view what) {
    return error{errc::corrupt, fmt::format("replica meta: {}", what)};
}

/// A boot id, padded with zeros; nothing but zeros is the empty one.
result<std::string> load_boot_id(std::span<const std::byte> bytes, std::size_t offset) {
    const auto field = bytes.subspan(offset, boot_id_max);
    const auto end = std::find(field.begin(), field.end(), std::byte{0});
    std::string text;
    for (auto i = field.begin(); i != end; ++i) text.push_back(static_cast<char>(*i));
    if (!is_zero(field.subspan(text.size())) || (!text.empty() && !is_boot_id(text)))
        return corrupt(fmt::format("no boot id at byte {}", offset));
    return text;
}

/// What every slot promises whatever its version: magic, version and checksum keep their place for ever.
status check_frame(std::span<const std::byte> bytes) {
    if (bytes.size() != meta_slot_bytes) return corrupt(fmt::format("a slot of {} bytes", bytes.size()));
    if (!holds_text(bytes, at::magic, slot_magic)) return corrupt("no magic");
    const auto stored = load<std::uint32_t>(bytes, at::checksum);
    const auto computed = checksum_of(bytes, at::checksum);
    if (stored != computed) return corrupt(fmt::format("checksum {:08x} is stored, {:08x} computed", stored, computed));
    const auto version = load<std::uint32_t>(bytes, at::version);
    if (version == 0) return corrupt("format version 0");
    if (version != meta_version)
        return error{errc::unsupported, fmt::format("replica meta: format version {}, this Weft knows {}: upgrade it",
                                                    version, meta_version)};
    const auto unknown = load<std::uint64_t>(bytes, at::incompat) & ~incompat_known;
    if (unknown != 0)
        return error{errc::unsupported,
                     fmt::format("replica meta: unknown incompatible features {:#x}: upgrade this Weft", unknown)};
    return ok();
}

}  // namespace

status check(const replica_meta& meta) {
    const auto bad = [](std::string_view what) { return error{errc::invalid_argument, std::string(what)}; };
    if (!is_uuid(meta.replica.str())) return bad("the replica's id is not a UUID");
    if (!is_uuid(meta.volume.str())) return bad("the volume's id is not a UUID");
    if (meta.size_bytes == 0 || meta.size_bytes % block_bytes != 0 || meta.size_bytes > replica_bytes_max)
        return bad(fmt::format("size {} is not a multiple of {} bytes between {} and {}", meta.size_bytes, block_bytes,
                               block_bytes, replica_bytes_max));
    if (!std::has_single_bit(meta.region_bytes) || meta.region_bytes < region_bytes_min ||
        meta.region_bytes > region_bytes_max)
        return bad(fmt::format("region size {} is not a power of two between {} and {}", meta.region_bytes,
                               region_bytes_min, region_bytes_max));
    if (meta.epoch == 0 && !meta.change_boot_id.empty()) return bad("a change boot id before the first epoch");
    if (!meta.change_boot_id.empty() && !is_boot_id(meta.change_boot_id)) return bad("not a change boot id");
    return ok();
}

meta_slot encode_meta(const replica_meta& meta) {
    const auto fit = check(meta);
    INVARIANT(fit.has_value(), "encode replica meta: {}", fit.error().text);
    meta_slot bytes{};
    store_text(bytes, at::magic, slot_magic);
    store<std::uint32_t>(bytes, at::version, meta_version);
    store<std::uint64_t>(bytes, at::incompat, meta.incompat);
    store<std::uint64_t>(bytes, at::compat, meta.compat);
    store<std::uint64_t>(bytes, at::generation, meta.generation);
    store_uuid(bytes, at::replica, meta.replica.str());
    store_uuid(bytes, at::volume, meta.volume.str());
    store<std::uint64_t>(bytes, at::size, meta.size_bytes);
    store<std::uint64_t>(bytes, at::region, meta.region_bytes);
    store<std::uint64_t>(bytes, at::bitmap_offset, bitmap_offset_bytes);
    store<std::uint64_t>(bytes, at::bitmap_length, bitmap_page_count(meta) * bitmap_page_bytes);
    store<std::uint64_t>(bytes, at::epoch, meta.epoch);
    store<std::uint64_t>(bytes, at::birth, meta.born_equal ? birth_equal : birth_added);
    store_text(bytes, at::change_boot, meta.change_boot_id);
    store<std::uint32_t>(bytes, at::checksum, checksum_of(bytes, at::checksum));
    return bytes;
}

result<replica_meta> decode_meta(std::span<const std::byte> bytes) {
    TRY(check_frame(bytes));
    replica_meta meta;
    meta.incompat = load<std::uint64_t>(bytes, at::incompat);
    meta.compat = load<std::uint64_t>(bytes, at::compat);
    meta.generation = load<std::uint64_t>(bytes, at::generation);
    meta.replica = replica_id{load_uuid(bytes, at::replica)};
    meta.volume = volume_id{load_uuid(bytes, at::volume)};
    meta.size_bytes = load<std::uint64_t>(bytes, at::size);
    meta.region_bytes = load<std::uint64_t>(bytes, at::region);
    meta.epoch = load<std::uint64_t>(bytes, at::epoch);
    const auto birth = load<std::uint64_t>(bytes, at::birth);
    if (birth != birth_equal && birth != birth_added) return corrupt(fmt::format("birth {}", birth));
    meta.born_equal = birth == birth_equal;
    TRY_ASSIGN(meta.change_boot_id, load_boot_id(bytes, at::change_boot));
    if (const auto fit = check(meta); fit.has_error()) return corrupt(fit.error().text);
    if (load<std::uint64_t>(bytes, at::bitmap_offset) != bitmap_offset_bytes ||
        load<std::uint64_t>(bytes, at::bitmap_length) != bitmap_page_count(meta) * bitmap_page_bytes)
        return corrupt("the bitmap's place does not fit the size");
    if (!is_zero(bytes.subspan(at::reserved))) return corrupt("reserved bytes are not 0");
    return meta;
}

result<replica_meta> choose_meta(std::span<const std::byte> slot_0, std::span<const std::byte> slot_1) {
    const auto in_its_place = [](result<replica_meta> decoded, std::size_t slot) -> result<replica_meta> {
        if (decoded.has_value() && slot_of(decoded->generation) != slot)
            return corrupt(fmt::format("generation {} in slot {}", decoded->generation, slot));
        return decoded;
    };
    auto first = in_its_place(decode_meta(slot_0), 0);
    auto second = in_its_place(decode_meta(slot_1), 1);
    // A later Weft has been here: what the other slot says may be out of date by its rules.
    for (const auto* slot : {&first, &second})
        if (slot->has_error() && slot->error().code == errc::unsupported) return slot->error();
    if (first.has_error() && second.has_error())
        return corrupt(fmt::format("both slots are bad: 0: {}; 1: {}", first.error().text, second.error().text));
    if (first.has_error()) return second;
    if (second.has_error()) return first;
    if (first->replica != second->replica || first->volume != second->volume || first->size_bytes != second->size_bytes)
        return corrupt("the slots are of different replicas");
    return first->generation > second->generation ? first : second;
}

replica_meta with_epoch(const replica_meta& meta, std::uint64_t epoch) {
    INVARIANT(epoch > meta.epoch, "epoch {} after {}", epoch, meta.epoch);
    replica_meta raised = meta;
    raised.generation = meta.generation + 1;
    raised.epoch = epoch;
    return raised;
}

replica_meta with_change_boot_id(const replica_meta& meta, std::string boot_id) {
    INVARIANT(meta.epoch != 0, "replica {} admits a change before its first epoch", meta.replica.str());
    replica_meta changed = meta;
    changed.generation = meta.generation + 1;
    changed.change_boot_id = std::move(boot_id);
    return changed;
}

replica_meta with_incompat(const replica_meta& meta, std::uint64_t features) {
    replica_meta marked = meta;
    marked.generation = meta.generation + 1;
    marked.incompat |= features;
    return marked;
}

std::uint64_t region_count(const replica_meta& meta) noexcept {
    return (meta.size_bytes + meta.region_bytes - 1) / meta.region_bytes;
}

std::uint64_t bitmap_page_count(const replica_meta& meta) noexcept {
    return (region_count(meta) + bitmap_page_bits - 1) / bitmap_page_bits;
}

std::uint64_t meta_file_bytes(const replica_meta& meta) noexcept {
    return bitmap_offset_bytes + bitmap_page_count(meta) * bitmap_page_bytes;
}

std::uint64_t sums_file_bytes(const replica_meta& meta) noexcept {
    return meta.size_bytes / block_bytes * block_sum_bytes;
}

bitmap_page encode_birth_page(const replica_meta& meta, std::uint64_t index) {
    INVARIANT(index < bitmap_page_count(meta), "bitmap page {} of {}", index, bitmap_page_count(meta));
    bitmap_page bytes{};
    if (!meta.born_equal) {
        const auto bits = std::min(bitmap_page_bits, region_count(meta) - index * bitmap_page_bits);
        for (std::uint64_t bit = 0; bit < bits; ++bit)
            bytes[bitmap_page_header_bytes + bit / 8] |= static_cast<std::byte>(1U << (bit % 8));
    }
    seal_bitmap_page(bytes, index);
    return bytes;
}

void seal_bitmap_page(bitmap_page& bytes, std::uint64_t index) noexcept {
    store_text(bytes, page_at::magic, page_magic);
    store<std::uint64_t>(bytes, page_at::index, index);
    store<std::uint32_t>(bytes, page_at::checksum, checksum_of(bytes, page_at::checksum));
}

result<std::span<const std::byte>> decode_bitmap_page(std::span<const std::byte> bytes, std::uint64_t index) {
    const auto bad = [index](std::string_view what) {
        return error{errc::corrupt, fmt::format("page {} of the bitmap: {}", index, what)};
    };
    if (bytes.size() != bitmap_page_bytes) return bad("wrong size");
    if (!holds_text(bytes, page_at::magic, page_magic)) return bad("no magic");
    if (load<std::uint32_t>(bytes, page_at::checksum) != checksum_of(bytes, page_at::checksum)) return bad("checksum");
    if (load<std::uint64_t>(bytes, page_at::index) != index) return bad("it is another page");
    if (!is_zero(bytes.subspan(page_at::checksum + 4, 4)) || !is_zero(bytes.subspan(page_at::index + 8, 8)))
        return bad("reserved bytes are not 0");
    return bytes.subspan(bitmap_page_header_bytes);
}

}  // namespace weft::core
