// SPDX-License-Identifier: Apache-2.0
// What moby was seen to do with mount IDs, case by case.
#include "orchestrator/core/mount_refs.hpp"

#include <doctest/doctest.h>

using namespace weft;

namespace {

void mount(mount_refs& refs, const std::string& id) {
    refs.add(id);
    refs.answered(id);
}

}  // namespace

TEST_CASE("mount_refs: a container's life is one Mount and one Unmount") {
    mount_refs refs;
    CHECK(refs.unused());
    mount(refs, "c1");
    CHECK_FALSE(refs.unused());
    CHECK(refs.remove("c1"));
    CHECK(refs.unused());
    CHECK(refs.empty());
}

TEST_CASE("mount_refs: docker cp on a running container does not end its use") {
    mount_refs refs;
    mount(refs, "c1");
    mount(refs, "c1");  // docker cp, with the container's own ID
    refs.remove("c1");
    CHECK_FALSE(refs.unused());
    refs.remove("c1");
    CHECK(refs.unused());
}

TEST_CASE("mount_refs: two containers share a volume until the second one ends") {
    mount_refs refs;
    mount(refs, "c1");
    mount(refs, "c2");
    refs.remove("c1");
    CHECK_FALSE(refs.unused());
    refs.remove("c2");
    CHECK(refs.unused());
}

TEST_CASE("mount_refs: an unknown ID is no error and takes nothing from the others") {
    mount_refs refs;
    CHECK_FALSE(refs.remove("c1"));
    mount(refs, "c1");
    CHECK_FALSE(refs.remove("c2"));
    CHECK_FALSE(refs.unused());
    refs.remove("c1");
    CHECK_FALSE(refs.remove("c1"));
    CHECK(refs.empty());
}

TEST_CASE("mount_refs: dockerd killed, the same ID mounted again, one Unmount: nobody is left") {
    mount_refs refs;
    refs.activate();
    mount(refs, "c1");
    refs.activate();    // kill -9 of dockerd: no Unmount came
    mount(refs, "c1");  // docker start of the same container
    CHECK(refs.refs().at("c1").suspect());
    CHECK_FALSE(refs.unused());  // it is starting now: no namespace may hold the file system yet
    refs.remove("c1");
    CHECK(refs.unused());
    CHECK_FALSE(refs.empty());  // one reference of the dead dockerd; only a mount namespace could still mean it
}

TEST_CASE("mount_refs: dockerd killed and the container never started again leaves nothing that holds") {
    mount_refs refs;
    mount(refs, "c1");
    refs.activate();
    CHECK(refs.unused());
    CHECK(refs.refs().at("c1").suspect());
}

TEST_CASE("mount_refs: live-restore Unmounts the old ID later, and docker cp may come in between") {
    mount_refs refs;
    mount(refs, "c1");
    refs.activate();    // dockerd restarted, the container runs on
    mount(refs, "c1");  // docker cp
    CHECK_FALSE(refs.unused());
    refs.remove("c1");
    CHECK(refs.unused());  // the container's mount namespace is what holds it now
    CHECK(refs.refs().at("c1") == mount_ref{1, 0});
    refs.remove("c1");  // the container ends
    CHECK(refs.empty());
}

TEST_CASE("mount_refs: live-restore, the container ends while docker cp still runs") {
    mount_refs refs;
    mount(refs, "c1");
    refs.activate();
    mount(refs, "c1");
    refs.remove("c1");
    refs.remove("c1");
    CHECK(refs.empty());
}

TEST_CASE("mount_refs: a new container holds the volume beside a suspect one") {
    mount_refs refs;
    mount(refs, "c1");
    refs.activate();
    mount(refs, "c2");
    CHECK_FALSE(refs.unused());
    refs.remove("c2");
    CHECK(refs.unused());
}

TEST_CASE("mount_refs: dockerd killed twice leaves no current reference") {
    mount_refs refs;
    mount(refs, "c1");
    refs.activate();
    mount(refs, "c1");
    refs.activate();
    CHECK(refs.unused());
    CHECK(refs.refs().at("c1") == mount_ref{2, 0});
    CHECK(refs.dockerd_epoch() == 2);
    refs.clear();
    CHECK(refs.empty());
    CHECK(refs.dockerd_epoch() == 2);
}

TEST_CASE("mount_refs: a Mount that nobody was told of is none, and asked for again it is one") {
    mount_refs refs;
    refs.add("c1");
    CHECK(refs.any_pending());
    refs.unanswered("c1");
    CHECK(refs.empty());
    refs.add("c1");
    refs.answered("c1");
    CHECK_FALSE(refs.any_pending());
    refs.add("c1");  // docker cp, whose client hangs up: the container's stays
    refs.unanswered("c1");
    CHECK(refs.refs().at("c1") == mount_ref{1, 1, 0});
    refs.unanswered("c1");  // a late word about what is no longer pending takes nothing away
    CHECK(refs.refs().at("c1") == mount_ref{1, 1, 0});

    mount_refs cp;  // weftd is killed before it answers it; the container's Unmount is the container's
    mount(cp, "c1");
    cp.add("c1");
    CHECK(cp.remove("c1"));
    CHECK(cp.refs().at("c1") == mount_ref{1, 1, 1});
    CHECK(cp.unanswered("c1"));
    CHECK(cp.empty());
    CHECK_FALSE(cp.unanswered("c1"));
    CHECK_FALSE(cp.answered("c1"));

    mount_refs killed;  // weftd, between recording and answering
    killed.add("c1");
    killed.add("c1");
    CHECK(killed.refs().at("c1") == mount_ref{1, 1, 1});
    CHECK(killed.remove("c1"));
    CHECK(killed.empty());
}

TEST_CASE("mount_refs: two Mounts of an ID that are answered at the same time are two") {
    mount_refs refs;
    refs.add("c1", 0);
    refs.add("c1", 1);
    CHECK(refs.refs().at("c1") == mount_ref{2, 2, 2});
    refs.answered("c1");
    refs.answered("c1");
    refs.answered("c1");
    CHECK(refs.refs().at("c1") == mount_ref{2, 2, 0});
    refs.answered("other");
    CHECK(refs.refs().size() == 1);
}

TEST_CASE("mount_refs: what stays pending is suspect after doubt, and a dockerd that starts anew has nothing pending") {
    mount_refs refs;
    refs.add("c1");
    refs.add("c2");
    refs.answered("c2");
    CHECK_FALSE(refs.unused());
    refs.doubt();
    CHECK(refs.refs().at("c1") == mount_ref{1, 0, 0});
    CHECK(refs.refs().at("c2") == mount_ref{1, 1, 0});
    refs.add("c3");
    refs.activate();
    CHECK(refs.unused());
    CHECK_FALSE(refs.any_pending());
}

TEST_CASE("mount_refs: the value survives encode, decode, encode") {
    mount_refs refs;
    CHECK(*mount_refs::decode(refs.encode()) == refs);
    refs.activate();
    refs.add("c1");
    refs.activate();
    refs.add("c1");
    refs.answered("c1");
    refs.add("c2");
    CHECK(refs.encode() == R"({"version":1,"dockerd_epoch":2,"refs":{"c1":{"count":2,"current":1},)"
                           R"("c2":{"count":1,"current":1,"pending":1}}})");
    CHECK(*mount_refs::decode(refs.encode()) == refs);
}

TEST_CASE("mount_refs: what is not such a value is corrupt") {
    for (const char* text :
         {"", "[]", "{}", R"({"version":2,"dockerd_epoch":0,"refs":{}})",
          R"({"version":1,"dockerd_epoch":-1,"refs":{}})", R"({"version":1,"dockerd_epoch":0,"refs":[]})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"c":{"count":0,"current":0}}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"c":{"count":1,"current":2}}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"c":{"count":2,"current":1,"pending":2}}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"c":{"count":2,"current":1,"pending":0}}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"c":1}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{"a/b":{"count":1,"current":1}}})",
          R"({"version":1,"dockerd_epoch":0,"refs":{},"more":1})"}) {
        CAPTURE(text);
        const auto decoded = mount_refs::decode(text);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
    }
}

TEST_CASE("mount_refs: mount IDs are held to their grammar") {
    CHECK_FALSE(check_mount_id(std::string(64, 'a')).has_error());
    for (const std::string& id : {std::string(), std::string("a/b"), std::string("a\n"), std::string(129, 'a')})
        CHECK(check_mount_id(id).error().code == errc::invalid_argument);
}
