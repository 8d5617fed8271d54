// SPDX-License-Identifier: Apache-2.0
// Docker's mount references as they lie on the node's disk.
//
// Properties: what is accepted keeps 0 <= pending <= current <= count, 1 <= count, encodes to itself again and says
// what the input said; Mount and Unmount of an ID cancel out; after Plugin.Activate nothing holds the volume any more,
// and nothing is forgotten.
#include <limits>

#include "orchestrator/core/mount_refs.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

/// The canary counts to three and forgets everything at four.
result<mount_refs> decode(std::string_view text) {
    auto refs = mount_refs::decode(text);
    if (fuzz::canary && refs.has_value())
        for (const auto& [id, ref] : refs->refs())
            if (ref.count > 3) return mount_refs{};
    return refs;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    auto refs = decode(text);
    if (refs.has_error()) {
        fuzz::check_error(refs.error(), errc::corrupt);
        return 0;
    }
    const std::string once = refs->encode();
    fuzz::check_says_the_same(text, once);
    const auto told = boost::json::parse(boost::json::string_view(data == nullptr ? "" : text.data(), text.size()));
    PROPERTY(told.at("refs").as_object().size() == refs->refs().size(), "references were lost: {}", once);
    const auto again = mount_refs::decode(once);
    PROPERTY(again.has_value() && *again == *refs, "not itself again: {}", once);
    for (const auto& [id, ref] : refs->refs()) {
        PROPERTY(ref.count >= 1 && ref.current <= ref.count && ref.pending <= ref.current, "{}: {}, {} of {}", id,
                 ref.pending, ref.current, ref.count);
        if (ref.count == std::numeric_limits<std::uint64_t>::max()) continue;
        mount_refs more = *refs;
        more.add(id, ref.pending);
        PROPERTY(more.answered(id), "{} is not pending", id);
        PROPERTY(!more.unused() && more.remove(id) && more == *refs, "Mount and Unmount of {} do not cancel out", id);
    }
    const std::size_t known = refs->refs().size();
    refs->activate();
    PROPERTY(refs->unused() && refs->refs().size() == known, "{} references became {}", known, refs->refs().size());
    return 0;
}
