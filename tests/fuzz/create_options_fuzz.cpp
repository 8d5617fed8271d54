// SPDX-License-Identifier: Apache-2.0
// The options of `docker volume create -o KEY=VALUE`.
//
// Input: lines KEY=VALUE.
// Properties: what is accepted is within the documented limits, a size is what was asked for rounded up to a MiB, and
// the values written out again are accepted as the same; what is refused names itself.
#include "orchestrator/core/create_options.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

using options_map = std::map<std::string, std::string>;

/// The canary rounds sizes above half a GiB down.
result<create_options> parse(const options_map& given) {
    auto options = parse_create_options(given);
    if (fuzz::canary && options.has_value() && options->size_bytes > gib / 2 && given.count("size") != 0) {
        const auto asked = parse_size(given.at("size"));
        options->size_bytes = *asked / mib * mib;
    }
    return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    options_map given;
    while (!input.empty()) {
        fuzz::feed line([&] {
            const auto text = input.until('\n');
            return fuzz::feed(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        }());
        const std::string key(line.until('='));
        given[key] = line.rest();
    }
    const auto options = parse(given);
    if (options.has_error()) {
        fuzz::check_error(options.error(), errc::invalid_argument);
        return 0;
    }
    PROPERTY(options->replicas >= 1 && options->replicas <= replicas_max, "{} replicas", options->replicas);
    PROPERTY(options->min_replicas >= 1 && options->min_replicas <= options->replicas, "min {}", options->min_replicas);
    PROPERTY(options->size_bytes % volume_size_unit_bytes == 0, "{} bytes", options->size_bytes);
    PROPERTY(options->size_bytes <= volume_size_max_bytes, "{} bytes", options->size_bytes);
    PROPERTY(options->size_bytes >= (options->fs == fs_type::xfs ? xfs_size_min_bytes : ext4_size_min_bytes) +
                                        (options->encrypt ? luks_size_bytes : 0),
             "{} bytes", options->size_bytes);
    if (given.count("size") != 0) {
        const auto asked = parse_size(given["size"]);
        PROPERTY(asked.has_value() && options->size_bytes >= *asked && options->size_bytes - *asked < mib,
                 "'{}' became {}", given["size"], options->size_bytes);
    }
    const auto again = parse_create_options({{"size", std::to_string(options->size_bytes)},
                                             {"replicas", std::to_string(options->replicas)},
                                             {"min-replicas", std::to_string(options->min_replicas)},
                                             {"fs", std::string(to_string(options->fs))}});
    PROPERTY(again.has_value() && again->size_bytes == options->size_bytes && again->replicas == options->replicas &&
                 again->min_replicas == options->min_replicas && again->fs == options->fs,
             "not the same again: {} bytes", options->size_bytes);
    return 0;
}
