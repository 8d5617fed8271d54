// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/api/admin.hpp"

#include <boost/json.hpp>
#include <doctest/doctest.h>

#include "fake_service.hpp"

using namespace weft;
using weft::testing::fake_service;
using weft::testing::sample_volume;

namespace {

struct outcome {
    unsigned status;
    boost::json::value body;
    [[nodiscard]] std::string code() const { return std::string(body.at("error").at("code").as_string()); }
    [[nodiscard]] std::string text() const { return std::string(body.at("error").at("text").as_string()); }
};

outcome ask(service& served, const std::string& method, const std::string& target, const std::string& body = "") {
    const auto response = admin(served).handle({method, target, body});
    REQUIRE_FALSE(response.drop);
    CHECK(response.content_type == "application/json");
    return {response.status, boost::json::parse(response.body)};
}

}  // namespace

TEST_CASE("admin: every GET route answers its view") {
    fake_service served;
    served.volumes.emplace("db", sample_volume("db"));
    CHECK(ask(served, "GET", "/v1/status").body.at("node") == "n1");
    CHECK(ask(served, "GET", "/v1/nodes").body.as_array().size() == 2);
    CHECK(ask(served, "GET", "/v1/drives").body.as_array()[0].at("path") == "/srv/weft/disk1");
    CHECK(ask(served, "GET", "/v1/volumes").body.as_array()[0].at("name") == "db");
    const auto volume = ask(served, "GET", "/v1/volumes/db");
    CHECK(volume.status == 200);
    CHECK(volume.body.at("extents").as_array()[0].at("replicas").as_array()[1].at("state") == "up_to_date");
    CHECK(volume.body.at("live").at("longest_hold_ms") == 1234);
    CHECK(ask(served, "GET", "/v1/events").body.as_array().size() == 3);
    CHECK(ask(served, "GET", "/v1/events?n=7").status == 200);
    CHECK(served.calls() ==
          std::vector<std::string>{"status", "nodes", "drives", "list", "inspect db", "events 50", "events 7"});
}

TEST_CASE("admin: a volume is created, attached, detached, removed") {
    fake_service served;
    const auto made = ask(served, "POST", "/v1/volumes", R"({"name":"db","options":{"size":"10g"}})");
    CHECK(made.status == 201);
    CHECK(made.body.at("size_bytes") == 10 * gib);
    const auto attached = ask(served, "POST", "/v1/volumes/db/attach", R"({"force":true})");
    CHECK(attached.status == 200);
    CHECK(attached.body.at("epoch") == 8);
    CHECK(ask(served, "POST", "/v1/volumes/db/attach").status == 200);
    const auto restarted = ask(served, "POST", "/v1/volumes/db/restart");
    CHECK(restarted.status == 200);
    CHECK(restarted.body.at("restarted") == "db");
    CHECK(restarted.body.at("epoch") == 9);
    CHECK(ask(served, "POST", "/v1/volumes/db/restart", R"({"force":true})").status == 400);
    CHECK(ask(served, "GET", "/v1/volumes/db/restart").status == 405);
    CHECK(ask(served, "POST", "/v1/volumes/db/detach").status == 200);
    CHECK(ask(served, "DELETE", "/v1/volumes/db").status == 200);
    CHECK(served.calls() == std::vector<std::string>{"get db", "create db size=10g", "get db", "attach db force",
                                                     "attach db", "restart db", "detach db", "remove db"});
}

TEST_CASE("admin: a volume's policies are changed, a scrub is asked for") {
    fake_service served;
    served.volumes.emplace("db", sample_volume("db"));
    const auto changed =
        ask(served, "PATCH", "/v1/volumes/db", R"({"options":{"on-full":"fail","resync-rate":"50m"}})");
    CHECK(changed.status == 200);
    CHECK(changed.body.at("name") == "db");
    CHECK(changed.body.at("on_full") == "hold");
    CHECK(ask(served, "PATCH", "/v1/volumes/db", R"({"size":"20g"})").status == 400);
    CHECK(ask(served, "PATCH", "/v1/volumes/db", "").status == 400);
    CHECK(ask(served, "PATCH", "/v1/volumes/other", R"({"options":{}})").status == 404);
    const auto wanted = ask(served, "POST", "/v1/volumes/db/scrub");
    CHECK(wanted.status == 200);
    CHECK(wanted.body.at("scrub_wanted") == 1);
    CHECK(ask(served, "POST", "/v1/volumes/db/scrub", R"({"now":true})").status == 400);
    CHECK(ask(served, "GET", "/v1/volumes/db/scrub").status == 405);
    CHECK(served.calls() == std::vector<std::string>{"set db on-full=fail resync-rate=50m", "set other", "scrub db"});
}

TEST_CASE("admin: a volume grows") {
    fake_service served;
    served.volumes.emplace("db", sample_volume("db"));
    const auto grown = ask(served, "POST", "/v1/volumes/db/grow", R"({"size":"20GiB"})");
    CHECK(grown.status == 200);
    CHECK(ask(served, "POST", "/v1/volumes/db/grow", "{}").status == 400);
    CHECK(ask(served, "POST", "/v1/volumes/db/grow", R"({"size":20})").status == 400);
    CHECK(ask(served, "POST", "/v1/volumes/none/grow", R"({"size":"20GiB"})").status == 404);
    CHECK(served.calls() == std::vector<std::string>{"grow db 20GiB", "grow none 20GiB"});
}

TEST_CASE("admin: creating a volume that exists is an error and changes nothing") {
    fake_service served;
    served.volumes.emplace("db", sample_volume("db"));
    const auto again = ask(served, "POST", "/v1/volumes", R"({"name":"db"})");
    CHECK(again.status == 409);
    CHECK(again.code() == "already_exists");
    CHECK(again.text() == "volume 'db' exists already");
    CHECK(served.calls() == std::vector<std::string>{"get db"});
}

TEST_CASE(
    "admin: one drive is found by its id, the beginning of it, and on the asked node by its directory or device") {
    fake_service served;
    const std::string first = "d1d1d1d1-1111-4111-8111-111111111111";
    for (const std::string& name : {first, first.substr(0, 4), std::string("%2Fsrv%2Fweft%2Fdisk1")})
        CHECK(ask(served, "GET", "/v1/drives/" + name).body.at("id").as_string() == first.c_str());
    CHECK(ask(served, "GET", "/v1/drives/d3d3").body.at("device").at("name") == "/dev/sdb");
    CHECK(ask(served, "GET", "/v1/drives/%2Fdev%2Fsdb").status == 404);  // it is another node's
    CHECK(ask(served, "GET", "/v1/drives/eeee").status == 404);
}

TEST_CASE("admin: drives are added by a normalised path and removed by id, prefix or path") {
    fake_service served;
    const auto added = ask(served, "POST", "/v1/drives", R"({"path":"/srv//disk/"})");
    CHECK(added.status == 201);
    CHECK(added.body.at("path") == "/srv/disk");
    CHECK(ask(served, "POST", "/v1/drives", R"({"path":"/dev/sdc","erase":"gpt:1-2,xfs:ab"})").status == 201);
    CHECK(ask(served, "DELETE", "/v1/drives/d1d1").status == 200);
    CHECK(ask(served, "DELETE", "/v1/drives/%2Fsrv%2Fdisk").body.at("removed") == "/srv/disk");
    CHECK(served.calls() == std::vector<std::string>{"add_drive /srv/disk", "add_drive /dev/sdc erase gpt:1-2,xfs:ab",
                                                     "remove_drive d1d1", "remove_drive /srv/disk"});
}

TEST_CASE("admin: every error code has its HTTP status") {
    const std::vector<std::pair<errc, unsigned>> table = {
        {errc::invalid_argument, 400}, {errc::not_found, 404},   {errc::already_exists, 409},  {errc::busy, 409},
        {errc::conflict, 409},         {errc::stale_epoch, 409}, {errc::no_space, 507},        {errc::no_quorum, 503},
        {errc::unavailable, 503},      {errc::timed_out, 504},   {errc::outcome_unknown, 500}, {errc::unsupported, 501},
        {errc::shutting_down, 503},    {errc::io_failed, 500},   {errc::corrupt, 500}};
    for (const auto& [its_code, http_status] : table) {
        const auto& code = its_code;  // clang 14 cannot capture a structured binding
        CAPTURE(to_string(code));
        fake_service served;
        served.failures["remove"] = {code, "why it is so"};
        const auto refused = ask(served, "DELETE", "/v1/volumes/db");
        CHECK(refused.status == http_status);
        CHECK(refused.code() == to_string(code));
        CHECK(refused.text() == "why it is so");
    }
}

TEST_CASE("admin: bad input has a message of its own and changes nothing") {
    struct bad_case {
        std::string method, target, body;
        unsigned http_status;
        std::string says;
    };
    std::string deep;
    for (int i = 0; i < 10000; ++i) deep += "{\"a\":";
    const std::vector<bad_case> cases = {
        {"GET", "/", "", 404, "there is no '/' in this API"},
        {"GET", "", "", 404, "there is no '' in this API"},
        {"GET", "/v1", "", 404, "there is no '/v1'"},
        {"GET", "/v2/volumes", "", 404, "there is no '/v2/volumes'"},
        {"GET", "/volumes", "", 404, "there is no '/volumes'"},
        {"GET", "/v1/volumes/db/extra/deep", "", 404, "there is no "},
        {"GET", "/v1//volumes", "", 404, "there is no "},
        {"POST", "/v1/volumes/db/resize", "{}", 404, "there is no '/v1/volumes/db/resize'"},
        {"PUT", "/v1/volumes", "{}", 405, "'/v1/volumes' takes GET and POST, not PUT"},
        {"DELETE", "/v1/status", "", 405, "takes GET, not DELETE"},
        {"GET", "/v1/volumes/db/attach", "", 405, "takes POST, not GET"},
        {"GET", "/v1/volumes?verbose=1", "", 400, "no query parameters, but got 'verbose=1'"},
        {"GET", "/v1/events?m=1", "", 400, "unknown query parameter 'm=1'; the known ones are: n"},
        {"GET", "/v1/events?n=0", "", 400, "'n' must be a whole number from 1 to 1000, not '0'"},
        {"GET", "/v1/events?n=-1", "", 400, "not '-1'"},
        {"GET", "/v1/events?n=1e3", "", 400, "not '1e3'"},
        {"GET", "/v1/events?n=", "", 400, "not ''"},
        {"GET", "/v1/events?n", "", 400, "unknown query parameter 'n'"},
        {"GET", "/v1/events?n=99999999999999999999", "", 400, "must be a whole number"},
        {"GET", "/v1/volumes/", "", 400, "'' is not a volume name: it is empty"},
        {"GET", "/v1/volumes/..", "", 400, "'..' is not a volume name"},
        {"GET", "/v1/volumes/a%2Fb", "", 400, "'a/b' is not a volume name"},
        {"GET", "/v1/volumes/a%0Ab", "", 400, "'a\\nb' is not a volume name"},
        {"GET", "/v1/volumes/%zz", "", 400, "is not percent-encoded"},
        {"GET", "/v1/volumes/%4", "", 400, "is not percent-encoded"},
        {"GET", "/v1/volumes/a%00b", "", 400, "is not percent-encoded"},
        {"DELETE", "/v1/volumes/" + std::string(300, 'y'), "", 400, "it has 300 characters"},
        {"POST", "/v1/volumes", "", 400, "the request has no body"},
        {"POST", "/v1/volumes", deep, 400, "nested deeper than 32 levels"},
        {"POST", "/v1/volumes", "{\"name\":\"db\"", 400, "cut off"},
        {"POST", "/v1/volumes", "[]", 400, "must be a JSON object, not an array"},
        {"POST", "/v1/volumes", "{}", 400, "field 'name' is missing"},
        {"POST", "/v1/volumes", R"({"name":"db","size":"1g"})", 400,
         "unknown field 'size'; the known ones are: name, options"},
        {"POST", "/v1/volumes", R"({"name":"db","options":{"replicas":3}})", 400,
         "option 'replicas' in 'options' must be a string, not a number"},
        {"POST", "/v1/volumes", R"({"name":"-x"})", 400, "'-x' is not a volume name"},
        {"POST", "/v1/drives", R"({"path":"relative"})", 400, "'relative' is not a drive's directory: it is relative"},
        {"POST", "/v1/drives", R"({"path":"/"})", 400, "the root directory cannot be a drive"},
        {"POST", "/v1/drives", R"({"path":"/srv/../etc"})", 400, "it has a '..' in it"},
        {"POST", "/v1/drives", R"({"path":""})", 400, "field 'path' must not be empty"},
        {"POST", "/v1/drives", R"({"path":"/srv","force":true})", 400, "unknown field 'force'"},
        {"POST", "/v1/drives", R"({"path":"/dev/sdc","erase":""})", 400, "field 'erase' must not be empty"},
        {"POST", "/v1/drives", R"({"path":"/dev/sdc","erase":"all"})", 400, "name what may be lost as TYPE:ID"},
        {"POST", "/v1/drives", R"({"path":"/dev/sdc","erase":"xfs:a b"})", 400, "name what may be lost as TYPE:ID"},
        {"GET", "/v1/drives/abc", "", 400, "'abc' does not name a drive"},
        {"DELETE", "/v1/drives/", "", 400, "'' does not name a drive"},
        {"DELETE", "/v1/drives/abc", "", 400, "'abc' does not name a drive"},
        {"DELETE", "/v1/drives/XYZW", "", 400, "'XYZW' does not name a drive"},
        {"POST", "/v1/volumes/db/attach", R"({"force":"yes"})", 400,
         "field 'force' must be true or false, not a string"},
        {"POST", "/v1/volumes/db/attach", R"({"forse":true})", 400, "unknown field 'forse'; the known ones are: force"},
        {"POST", "/v1/volumes/db/detach", R"({"x":1})", 400, "unknown field 'x'; the known ones are: none"},
        {"POST", "/v1/volumes/a b/detach", "", 400, "'a b' is not a volume name"},
        {"GET", "/v1/volumes/nope", "", 404, "no such volume: 'nope'"},
        {"POST", "/v1/volumes/a b/repair", "", 400, "'a b' is not a volume name"},
        {"POST", "/v1/volumes/db/repair", R"({"now":true})", 400, "unknown field 'now'; the known ones are: none"},
        {"GET", "/v1/volumes/db/repair", "", 405, "takes POST, not GET"},
        {"POST", "/v1/volumes/db/recover", "", 400, "the request has no body"},
        {"POST", "/v1/volumes/db/recover", "{}", 400, "field 'from' is missing"},
        {"POST", "/v1/volumes/db/recover", R"({"from":7})", 400, "field 'from' must be a string"},
        {"POST", "/v1/volumes/db/recover", R"({"from":"1111","accept_data_loss":1})", 400,
         "field 'accept_data_loss' must be true or false"},
        {"POST", "/v1/nodes/../forget", "", 400, "'..' is not a node name"},
        {"POST", "/v1/nodes/n2/forget", R"({"force":"yes"})", 400, "field 'force' must be true or false"},
        {"DELETE", "/v1/nodes/n2/forget", "", 405, "takes POST, not DELETE"},
    };
    for (const auto& [its_method, its_target, its_body, http_status, says] : cases) {
        const auto& method = its_method;  // clang 14 cannot capture a structured binding
        const auto& target = its_target;  // clang 14 cannot capture a structured binding
        const auto& body = its_body;      // clang 14 cannot capture a structured binding
        CAPTURE(method);
        CAPTURE(target);
        CAPTURE(body.substr(0, 80));
        fake_service served;
        const auto refused = ask(served, method, target, body);
        CHECK(refused.status == http_status);
        CAPTURE(refused.text());
        CHECK(refused.text().find(says) != std::string::npos);
        for (const std::string& call : served.calls()) CHECK(call == "inspect nope");
    }
}

TEST_CASE("admin: percent-encoding is undone exactly") {
    const std::string text = "a/b c%\xc3\xa9~._-";
    CHECK(percent_encode(text) == "a%2Fb%20c%25%C3%A9~._-");
    CHECK(*percent_decode(percent_encode(text)) == text);
}
