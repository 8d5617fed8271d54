// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/control_message.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

using namespace weft;
using namespace weft::core;

namespace {

const std::string uuid_a = "0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c01";
const std::string uuid_b = "0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c02";

attach_config sample_config() {
    attach_config config;
    config.volume = "db";
    config.id = volume_id(uuid_a);
    config.epoch = 7;
    config.clean = true;
    config.min_replicas = 2;
    config.connections = 3;
    config.policy = {100 * mib, full_policy::fail, 2, 1};
    config.extents = {{1 * gib,
                       {{{replica_id(uuid_a), replica_state::up_to_date, true}, "127.0.0.1", 7480},
                        {{replica_id(uuid_b), replica_state::outdated, false}, "::1", 7481}}},
                      {64 * mib, {{{replica_id(uuid_b), replica_state::inconsistent, false}, "127.0.0.2", 1}}}};
    config.layout = {128 * 1024, {1, 1}};
    return config;
}

engine_status sample_status() {
    engine_status status;
    status.state = engine_state::serving;
    status.slots = {{replica_id(uuid_a), replica_state::up_to_date, true, false, 0, 0},
                    {replica_id(uuid_b), replica_state::inconsistent, true, true, 5 * mib, 3 * mib}};
    status.slots[0].recovering = status.slots[0].full = true;
    status.dirty_bytes = 12 * mib;
    status.waiting_for_space = true;
    status.scrub = {3, true, 8 * mib, 12288, 8192, 4096};
    status.recovery_left_bytes = 4 * mib;
    status.requests_in_flight = 3;
    status.holding = true;
    status.held_for = std::chrono::milliseconds(17);
    status.longest_hold = std::chrono::milliseconds(1900);
    status.reads = 1;
    status.writes = 2;
    status.read_bytes = 4096;
    status.written_bytes = 8192;
    return status;
}

/// The text with the first `from` replaced.
std::string with(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("control_message: every message encodes, decodes and encodes to the same line") {
    const std::vector<control_message> all = {
        hello_message{volume_id(uuid_a), 7, 4711},
        status_message{{sample_status(), engine_status{}}},
        propose_message{12, 1, replica_id(uuid_b), replica_state::outdated, "did not answer for 5000 ms"},
        propose_message{13, 0, replica_id(uuid_b), replica_state::up_to_date, "its host restarted", true},
        notice_message{{notice::level::warning, "replica is \"slow\""}},
        detached_message{false},
        detached_message{true},
        get_status_message{},
        result_message{12, proposal_outcome::committed, ""},
        result_message{13, proposal_outcome::refused, "the last one"},
        result_message{14, proposal_outcome::fenced, "epoch 8"},
        members_message{sample_config().extents, {64 * mib, full_policy::fail, 3, 2}, sample_config().layout},
        detach_message{},
        lease_message{1234567890123456789},
    };
    for (const control_message& message : all) {
        const std::string line = encode_control(message);
        CAPTURE(line);
        CHECK(line.find('\n') == std::string::npos);
        const auto decoded = decode_control(line);
        REQUIRE(decoded.has_value());
        CHECK(decoded->index() == message.index());
        CHECK(encode_control(*decoded) == line);
    }
}

TEST_CASE("control_message: an attach.json without a layout is of a Weft that only concatenated") {
    const std::string old = with(encode_attach_config(sample_config()), R"(,"chunk_bytes":131072,"stripes":[1,1])", "");
    const auto decoded = decode_attach_config(old);
    REQUIRE(decoded.has_value());
    CHECK(decoded->layout == concatenation(2));
    const auto refused = decode_attach_config(with(encode_attach_config(sample_config()), "[1,1]", "[2]"));
    REQUIRE(refused.has_error());
    CHECK(refused.error().text.find("stripes") != std::string::npos);
}

TEST_CASE("control_message: the wire form is what the documentation of the socket shows") {
    CHECK(encode_control(propose_message{12, 1, replica_id(uuid_b), replica_state::outdated, "gone"}) ==
          R"({"type":"propose","id":12,"extent":1,"replica":")" + uuid_b +
              R"(","to":"outdated","reason":"gone","recovering":false})");
    CHECK(encode_control(result_message{12, proposal_outcome::committed, ""}) ==
          R"({"type":"result","id":12,"outcome":"committed","text":""})");
}

TEST_CASE("control_message: fields that a later version adds are ignored") {
    const auto decoded = decode_control(R"({"type":"detached","equal":false,"since":"later"})");
    REQUIRE(decoded.has_value());
    CHECK_FALSE(std::get<detached_message>(*decoded).equal);
}

TEST_CASE("control_message: text for people cannot break a line or a terminal") {
    const std::string line = encode_control(notice_message{{notice::level::info, "a\nb\x1b[31m\xff"}});
    const auto decoded = decode_control(line);
    REQUIRE(decoded.has_value());
    CHECK(std::get<notice_message>(*decoded).what.text == "a?b?[31m?");
}

TEST_CASE("control_message: nonsense is refused, naming what is wrong") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "JSON"},
        {"{", "JSON"},
        {"[]", "object"},
        {"{}", "type"},
        {R"({"type":7})", "type"},
        {R"({"type":"reboot"})", "reboot"},
        {R"({"type":"result","id":1,"text":""})", "outcome"},
        {R"({"type":"result","id":1,"outcome":"perhaps","text":""})", "perhaps"},
        {R"({"type":"result","id":-1,"outcome":"committed","text":""})", "id"},
        {R"({"type":"result","id":1.5,"outcome":"committed","text":""})", "id"},
        {R"({"type":"result","id":"1","outcome":"committed","text":""})", "id"},
        {R"({"type":"result","id":0,"outcome":"committed","text":""})", "id"},
        {R"({"type":"members","extents":[]})", "extents"},
        {R"({"type":"members","extents":[7]})", "extents"},
        {R"({"type":"detached","equal":"yes"})", "equal"},
        {std::string(10000, '['), "JSON"},
    };
    for (const auto& [its_line, named] : cases) {
        const auto& line = its_line;  // clang 14 cannot capture a structured binding
        CAPTURE(line);
        const auto decoded = decode_control(line);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        CHECK(decoded.error().text.find(named) != std::string::npos);
    }
    CHECK(decode_control(std::string(control_line_max + 1, ' ')).has_error());
}

TEST_CASE("attach_config: encodes, decodes and encodes to the same text") {
    const std::string text = encode_attach_config(sample_config());
    const auto decoded = decode_attach_config(text);
    REQUIRE(decoded.has_value());
    CHECK(encode_attach_config(*decoded) == text);
    CHECK(decoded->extents[0].replicas[1].host == "::1");
    CHECK(decoded->extents[0].replicas[0].member.local);
}

TEST_CASE("attach_config: bad configurations are refused, naming the field") {
    const std::string good = encode_attach_config(sample_config());
    const std::vector<std::pair<std::string, std::string>> cases = {
        {with(good, R"("epoch":7)", R"("epoch":0)"), "epoch"},
        {with(good, R"("epoch":7)", R"("epoch":-7)"), "epoch"},
        {with(good, R"("clean":true)", R"("clean":1)"), "clean"},
        {with(good, R"("min_replicas":2)", R"("min_replicas":0)"), "min_replicas"},
        {with(good, R"("connections":3)", R"("connections":17)"), "connections"},
        {with(good, R"("request_timeout_ms":5000)", R"("request_timeout_ms":0)"), "request_timeout_ms"},
        {with(good, R"("size_bytes":1073741824)", R"("size_bytes":1073741825)"), "extents[0]: size_bytes"},
        {with(good, R"("size_bytes":67108864)", R"("size_bytes":0)"), "extents[1]: size_bytes"},
        {with(good, R"("127.0.0.1")", R"("localhost")"), "replicas[0]: host"},
        {with(good, R"("port":7481)", R"("port":0)"), "replicas[1]: port"},
        {with(good, R"("port":7481)", R"("port":65536)"), "replicas[1]: port"},
        {with(good, R"("state":"outdated")", R"("state":"fine")"), "fine"},
        {with(good, uuid_b, uuid_a), "twice"},
        {with(good, uuid_b, "../../etc/passwd"), "replicas[1]: id"},
        {good.substr(0, good.size() / 2), "JSON"},
        {"", "JSON"},
    };
    for (const auto& [its_text, named] : cases) {
        const auto& text = its_text;  // clang 14 cannot capture a structured binding
        CAPTURE(text);
        const auto decoded = decode_attach_config(text);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        CHECK(decoded.error().text.find(named) != std::string::npos);
    }
}
