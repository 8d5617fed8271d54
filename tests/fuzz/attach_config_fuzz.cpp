// SPDX-License-Identifier: Apache-2.0
// attach.json, from which a volume server takes its replicas and whether they are equal.
//
// Properties: what is accepted encodes to a text that is accepted and encodes to itself; every field says what the
// input said; the limits that the volume server relies on hold; what is refused is `corrupt` with a text.
#include <limits>

#include "nbd-backend/core/control_message.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::core;

namespace {

/// The canary keeps time-outs in thirteen bits.
result<attach_config> decode(std::string_view text) {
    auto config = decode_attach_config(text);
    if (fuzz::canary && config.has_value())
        for (auto* time : {&config->request_timeout_ms, &config->reconnect_window_ms, &config->attach_timeout_ms})
            *time &= 0x1fff;
    return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto config = decode(text);
    if (config.has_error()) {
        fuzz::check_error(config.error(), errc::corrupt);
        return 0;
    }
    const std::string once = encode_attach_config(*config);
    fuzz::check_says_the_same(text, once);
    const auto again = decode_attach_config(once);
    PROPERTY(again.has_value() && encode_attach_config(*again) == once, "not itself again: {}", once);
    PROPERTY(config->epoch > 0 && config->connections > 0 && config->min_replicas > 0, "a zero in {}", once);
    std::uint64_t total = 0;
    for (const auto& extent : config->extents) {
        PROPERTY(extent.size_bytes > 0 && extent.size_bytes % block_bytes == 0, "{} bytes", extent.size_bytes);
        PROPERTY(!extent.replicas.empty() && extent.replicas.size() <= max_slots, "{} slots", extent.replicas.size());
        total += extent.size_bytes;
        PROPERTY(total <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), "size {}", total);
    }
    return 0;
}
