// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/policy_change.hpp"

#include <doctest/doctest.h>

#include "tests/unit/sample_records.hpp"

using namespace weft;

TEST_CASE("policy_change: what is given changes, the rest stays") {
    auto before = test::attached_volume(3);
    before.scrub_every_s = 86400;
    const auto change = *parse_policy_change({{"on-full", "fail"}, {"resync-rate", "50m"}, {"min-replicas", "2"}});
    const auto after = *change_policy(before, change);
    CHECK(after.on_full == core::full_policy::fail);
    CHECK(after.resync_rate == 50 * mib);
    CHECK(after.min_replicas == 2);
    CHECK(after.scrub_every_s == 86400);
    CHECK(after.epoch == before.epoch);
    CHECK(after.writer == before.writer);
    CHECK_FALSE(check(after).has_error());
    CHECK(describe_policy_change(before, after) ==
          "min-replicas: 2 (was 1), on-full: fail (was hold), resync-rate: 50 MiB/s (was no limit)");
    CHECK(describe_policy_change(after, after).empty());
    CHECK(change_policy(after, *parse_policy_change({{"scrub-every", "never"}}))->scrub_every_s == 0);
}

TEST_CASE("policy_change: a difference that rounding hides is told all the same") {
    auto before = test::sample_volume();
    before.resync_rate = 100 * mib;
    auto after = before;
    after.resync_rate += 1;
    CHECK(describe_policy_change(before, after) == "resync-rate: 100 MiB/s (was 100 MiB/s)");
}

TEST_CASE("policy_change: options of creation, unknown ones and none at all are refused with what can be changed") {
    const std::pair<std::map<std::string, std::string>, const char*> cases[] = {
        {{}, "nothing to change"},
        {{{"size", "20g"}}, "option 'size': it is decided when a volume is created"},
        {{{"provisioning", "thick"}}, "option 'provisioning': it is decided"},
        {{{"encrypt", "on"}}, "option 'encrypt': it is decided"},
        {{{"replicas", "3"}}, "option 'replicas': it is decided"},
        {{{"onfull", "hold"}}, "unknown option 'onfull'"},
        {{{"a\nb", "hold"}}, "unknown option 'a\\nb'"},
    };
    for (const auto& row : cases) {
        const auto& problem = row.second;
        CAPTURE(problem);
        const auto refused = parse_policy_change(row.first);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK_MESSAGE(refused.error().text.find(problem) == 0, refused.error().text);
        CHECK(refused.error().text.find("min-replicas, on-full, resync-rate, scrub-every") != std::string::npos);
    }
    CHECK(parse_policy_change({{"on-full", "fail"}, {"min-replicas", "4"}}).error().text ==
          "option 'min-replicas': '4' is not a number from 1 to 3");
}

TEST_CASE("policy_change: min-replicas stays within the replicas wanted") {
    const auto refused = change_policy(test::sample_volume(2), *parse_policy_change({{"min-replicas", "3"}}));
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::invalid_argument);
    CHECK(refused.error().text.find("3 is more than the volume's replicas (2)") != std::string::npos);
}

TEST_CASE("policy_change: min-replicas is not raised above what is up to date, which would stop all writes") {
    auto record = test::attached_volume(3);
    record.extents[0].replicas[2].state = replica_state::outdated;
    CHECK_FALSE(change_policy(record, *parse_policy_change({{"min-replicas", "2"}})).has_error());
    const auto refused = change_policy(record, *parse_policy_change({{"min-replicas", "3"}}));
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text.find("2 replicas of volume 'db' are up to date now") != std::string::npos);
    // What it has already may stay, and be lowered, whatever is up to date.
    record.min_replicas = 3;
    CHECK_FALSE(change_policy(record, *parse_policy_change({{"min-replicas", "3"}})).has_error());
    CHECK_FALSE(change_policy(record, *parse_policy_change({{"on-full", "fail"}})).has_error());
    CHECK(change_policy(record, *parse_policy_change({{"min-replicas", "1"}}))->min_replicas == 1);
}
