// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/create_options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

status apply_size(create_options& options, const std::string& text) {
    const auto size = parse_size(text);
    // parse_size shows the text as it came; here it may hold a terminal's control sequences.
    if (size.has_error())
        return bad_option("size", fmt::format("'{}' is not a size: write a whole number of bytes or with a suffix, "
                                              "such as 10GiB, 512m or 1073741824",
                                              printable(text)));
    if (*size == 0) return bad_option("size", "a volume cannot have 0 bytes");
    if (*size > volume_size_max_bytes)
        return bad_option("size", fmt::format("{} is more than the largest volume, {}", render_size(*size),
                                              render_size(volume_size_max_bytes)));
    options.size_bytes = *size;
    return ok();
}

status apply_replicas(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.replicas, parse_count("replicas", text));
    return ok();
}

status apply_stripes(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.stripes, parse_stripes(text));
    return ok();
}

status apply_layout(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.mirrored, parse_layout(text));
    return ok();
}

status apply_min_replicas(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.min_replicas, parse_count("min-replicas", text));
    return ok();
}

status apply_provisioning(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.thick, parse_provisioning(text));
    return ok();
}

status apply_checksums(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.checksums, parse_checksums(text));
    return ok();
}

status apply_encrypt(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.encrypt, parse_encrypt(text));
    return ok();
}

status apply_on_full(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.on_full, parse_on_full(text));
    return ok();
}

status apply_resync_rate(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.resync_rate, parse_resync_rate(text));
    return ok();
}

status apply_scrub_every(create_options& options, const std::string& text) {
    TRY_ASSIGN(options.scrub_every_s, parse_scrub_every(text));
    return ok();
}

status apply_fs(create_options& options, const std::string& text) {
    const auto fs = parse_fs_type(text);
    if (fs.has_error()) return bad_option("fs", fs.error().text);
    options.fs = *fs;
    return ok();
}

struct known_option {
    std::string_view name;
    status (*apply)(create_options&, const std::string&);
};

constexpr known_option known_options[] = {
    // sorted: this is how the error lists them
    {"checksums", apply_checksums},
    {"encrypt", apply_encrypt},
    {"fs", apply_fs},
    {"layout", apply_layout},
    {"min-replicas", apply_min_replicas},
    {"on-full", apply_on_full},
    {"provisioning", apply_provisioning},
    {"replicas", apply_replicas},
    {"resync-rate", apply_resync_rate},
    {"scrub-every", apply_scrub_every},
    {"size", apply_size},
    {"stripes", apply_stripes},
};

error unknown_option(std::string_view option) {
    std::string list;
    for (const auto& known : known_options) list += fmt::format("{}{}", list.empty() ? "" : ", ", known.name);
    return error{errc::invalid_argument,
                 fmt::format("unknown option '{}'; the options are: {}", printable(option), list)};
}

/// The legs are device-mapper's: it knows no minimum of them, and gives up one that says that it is full.
status check_mirrored(const create_options& options) {
    if (!options.mirrored) return ok();
    if (options.stripes > 1) return bad_option("stripes", "a mirrored volume has no stripes; leave one of the two out");
    if (options.replicas < 2) return bad_option("replicas", "a mirrored volume has at least 2 legs");
    if (options.min_replicas > 1)
        return bad_option("min-replicas", "a mirrored volume goes on with one leg; use layout=striped to have it wait");
    if (options.on_full != core::full_policy::hold)
        return bad_option("on-full", "a mirrored volume can only hold writes that find a drive full");
    return ok();
}

/// What no option can know alone.
status check_together(const create_options& options) {
    const std::uint64_t smallest = (options.fs == fs_type::xfs ? xfs_size_min_bytes : ext4_size_min_bytes) +
                                   (options.encrypt ? luks_size_bytes : 0);
    if (options.size_bytes < smallest)
        return bad_option(
            "size", fmt::format("{} is too small for {}{}: at least {}", render_size(options.size_bytes),
                                options.encrypt ? "encrypted " : "", to_string(options.fs), render_size(smallest)));
    if (options.min_replicas > options.replicas)
        return bad_option("min-replicas", fmt::format("{} is more than the volume's replicas ({})",
                                                      options.min_replicas, options.replicas));
    return check_mirrored(options);
}

}  // namespace

bool is_create_option(std::string_view name) noexcept {
    return std::any_of(std::begin(known_options), std::end(known_options),
                       [&](const known_option& known) { return known.name == name; });
}

result<create_options> parse_create_options(const std::map<std::string, std::string>& options) {
    create_options parsed;
    for (const auto& [name, value] : options) {
        const known_option* found = nullptr;
        for (const auto& known : known_options)
            if (known.name == name) found = &known;
        if (found == nullptr) return unknown_option(name);
        TRY(found->apply(parsed, value));
    }
    TRY(check_together(parsed));
    const std::uint64_t unit = volume_size_unit_bytes * parsed.stripes;
    parsed.size_bytes = (parsed.size_bytes + unit - 1) / unit * unit;
    return parsed;
}

}  // namespace weft
