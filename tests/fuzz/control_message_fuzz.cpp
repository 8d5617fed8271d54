// SPDX-License-Identifier: Apache-2.0
// A line of the control socket between weftd and a volume server.
//
// Properties: an accepted line encodes to one line that decodes to the same kind of message and encodes to itself
// again; every field of it says what the input said; what is refused is `corrupt` with a text that may be logged.
#include "nbd-backend/core/control_message.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::core;

namespace {

/// The canary keeps ports and a proposal's number in thirteen bits.
result<control_message> decode(std::string_view line) {
    auto message = decode_control(line);
    if (!fuzz::canary || message.has_error()) return message;
    if (auto* result = std::get_if<result_message>(&*message)) result->id &= 0x1fff;
    if (auto* members = std::get_if<members_message>(&*message))
        for (auto& extent : members->extents)
            for (auto& replica : extent.replicas) replica.port &= 0x1fff;
    return message;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view line(reinterpret_cast<const char*>(data), size);
    const auto message = decode(line);
    if (message.has_error()) {
        fuzz::check_error(message.error(), errc::corrupt);
        return 0;
    }
    const std::string once = encode_control(*message);
    PROPERTY(once.find('\n') == std::string::npos, "more than one line: {}", once);
    fuzz::check_says_the_same(line, once);
    const auto again = decode_control(once);
    PROPERTY(again.has_value(), "its own line is refused: {}: {}", again.error().text, once);
    PROPERTY(again->index() == message->index(), "another kind of message: {}", once);
    PROPERTY(encode_control(*again) == once, "{} became {}", once, encode_control(*again));
    return 0;
}
