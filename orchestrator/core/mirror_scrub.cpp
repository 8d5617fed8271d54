// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/mirror_scrub.hpp"

namespace weft {

set_order set_scrub::step(const set_state& set, std::uint64_t wanted) {
    using work = set_state::work;
    if (wanted > status_.serial) {
        status_ = core::scrub_status{};
        status_.serial = wanted;
        status_.running = true;
        phase_ = phase::waiting;
    }
    switch (phase_) {
        case phase::ended: return set_order::none;
        case phase::waiting:
            if (set.now == work::checking) {  // begun by the weftd before us
                phase_ = phase::checking;
                return set_order::none;
            }
            if (set.now != work::idle || !set.whole) return set_order::none;
            phase_ = phase::checking;
            return set_order::check;
        case phase::checking:
            if (set.now == work::checking) status_.done_bytes = set.done_bytes;
            if (set.now != work::idle) return set_order::none;
            if (!set.whole) {  // a leg failed: what was compared says nothing of its successor
                phase_ = phase::waiting;
                return set_order::none;
            }
            status_.differing_bytes = status_.undecided_bytes = set.differing_bytes;
            if (set.differing_bytes > 0) {
                phase_ = phase::repairing;
                return set_order::repair;
            }
            end(set);
            return set_order::none;
        case phase::repairing:
            if (set.now != work::idle) return set_order::none;
            status_.repaired_bytes = status_.differing_bytes;
            end(set);
            return set_order::none;
    }
    return set_order::none;
}

void set_scrub::end(const set_state& set) {
    phase_ = phase::ended;
    status_.running = false;
    status_.done_bytes = set.size_bytes;
}

}  // namespace weft
