// SPDX-License-Identifier: Apache-2.0
// E7's other half: what counts as an unbroken lease, and which commit proves that nobody has taken a volume over.
#include <doctest/doctest.h>

#include "orchestrator/core/transitions.hpp"
#include "tests/unit/sample_records.hpp"

using namespace weft;

TEST_CASE("transitions: reaffirm changes nothing, and only for the writer of this very epoch") {
    const auto volume = test::attached_volume();
    CHECK(encode(*reaffirm(volume, test::node(1), volume.epoch)) == encode(volume));
    CHECK(reaffirm(volume, test::node(1), volume.epoch - 1).error().code == errc::stale_epoch);
    CHECK(reaffirm(volume, test::node(2), volume.epoch).error().code == errc::stale_epoch);
}
