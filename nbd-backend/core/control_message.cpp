// SPDX-License-Identifier: Apache-2.0
// JSON of the control socket and of attach.json. Decoding is strict about what is there (types, ranges, grammars) and
// lenient about what it does not know (unknown fields), so that one side can be upgraded before the other.
#include "nbd-backend/core/control_message.hpp"

#include <arpa/inet.h>
#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

namespace weft::core {

namespace json = boost::json;

namespace {

// Limits of attach.json: wide enough for any sane configuration, narrow enough that nothing overflows.
constexpr std::uint64_t milliseconds_max = 24ULL * 60 * 60 * 1000;
constexpr std::uint64_t connections_max = 16;
constexpr std::size_t extents_max = 65536;

error wrong(std::string_view field, std::string_view what) {
    return error{errc::corrupt, fmt::format("{}: {}", field, what)};
}

/// Text for people, made safe for JSON and terminals: bytes that are not printable ASCII become '?'.
std::string printable(std::string_view text) {
    std::string safe(text);
    std::replace_if(
        safe.begin(), safe.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    return safe;
}

result<json::object> parse_object(std::string_view text, std::string_view what) {
    boost::system::error_code problem;
    json::value value = json::parse(text, problem);
    if (problem) return error{errc::corrupt, fmt::format("{} is not JSON: {}", what, problem.message())};
    if (!value.is_object()) return error{errc::corrupt, fmt::format("{} is not a JSON object", what)};
    return std::move(value.get_object());
}

result<const json::value*> member(const json::object& from, std::string_view field) {
    const json::value* value = from.if_contains(field);
    if (value == nullptr) return wrong(field, "is missing");
    return value;
}

result<std::uint64_t> number(const json::object& from, std::string_view field, std::uint64_t least,
                             std::uint64_t most) {
    TRY_ASSIGN(const json::value* value, member(from, field));
    std::uint64_t n = 0;
    if (value->is_uint64())
        n = value->get_uint64();
    else if (value->is_int64() && value->get_int64() >= 0)
        n = static_cast<std::uint64_t>(value->get_int64());
    else
        return wrong(field, "is not a whole number >= 0");
    if (n < least || n > most) return wrong(field, fmt::format("{} is not between {} and {}", n, least, most));
    return n;
}

constexpr std::uint64_t any_number = std::numeric_limits<std::uint64_t>::max();

result<std::uint32_t> small_number(const json::object& from, std::string_view field, std::uint64_t least = 0,
                                   std::uint64_t most = std::numeric_limits<std::uint32_t>::max()) {
    TRY_ASSIGN(const std::uint64_t n, number(from, field, least, most));
    return static_cast<std::uint32_t>(n);
}

result<bool> boolean(const json::object& from, std::string_view field) {
    TRY_ASSIGN(const json::value* value, member(from, field));
    if (!value->is_bool()) return wrong(field, "is neither true nor false");
    return value->get_bool();
}

result<std::string> text(const json::object& from, std::string_view field) {
    TRY_ASSIGN(const json::value* value, member(from, field));
    if (!value->is_string()) return wrong(field, "is not a string");
    return std::string(value->get_string());
}

result<std::string> uuid(const json::object& from, std::string_view field) {
    TRY_ASSIGN(std::string id, text(from, field));
    if (!is_uuid(id)) return wrong(field, "'" + printable(id.substr(0, 40)) + "' is not a UUID");
    return id;
}

result<const json::array*> array(const json::object& from, std::string_view field) {
    TRY_ASSIGN(const json::value* value, member(from, field));
    if (!value->is_array()) return wrong(field, "is not an array");
    return &value->get_array();
}

/// The enumerator whose name stands in the field.
template <typename Enum, std::size_t N>
result<Enum> named(const json::object& from, std::string_view field, const Enum (&all)[N],
                   std::string_view (*name)(Enum) noexcept) {
    TRY_ASSIGN(const std::string word, text(from, field));
    for (const Enum one : all)
        if (name(one) == word) return one;
    return wrong(field, "'" + printable(word.substr(0, 40)) + "' is not known");
}

constexpr engine_state engine_states[] = {engine_state::fencing,  engine_state::serving, engine_state::detaching,
                                          engine_state::detached, engine_state::fenced,  engine_state::lost};
constexpr proposal_outcome outcomes[] = {proposal_outcome::committed, proposal_outcome::refused,
                                         proposal_outcome::fenced};
constexpr full_policy full_policies[] = {full_policy::hold, full_policy::fail};
constexpr notice::level levels[] = {notice::level::info, notice::level::warning, notice::level::error};

std::string_view outcome_name(proposal_outcome outcome) noexcept {
    switch (outcome) {
        case proposal_outcome::committed: return "committed";
        case proposal_outcome::refused: return "refused";
        case proposal_outcome::fenced: return "fenced";
    }
    return "unknown";
}

std::string_view level_name(notice::level level) noexcept {
    switch (level) {
        case notice::level::info: return "info";
        case notice::level::warning: return "warning";
        case notice::level::error: return "error";
    }
    return "unknown";
}

constexpr leg_event leg_events[] = {leg_event::in_sync, leg_event::given_up};

std::string_view leg_event_name(leg_event what) noexcept {
    switch (what) {
        case leg_event::in_sync: return "in_sync";
        case leg_event::given_up: return "given_up";
    }
    return "unknown";
}

result<replica_state> state_of_replica(const json::object& from, std::string_view field) {
    TRY_ASSIGN(const std::string word, text(from, field));
    auto state = parse_replica_state(printable(word));
    if (state.has_error()) return state.error().within(field);
    return state;
}

// --- extents and their members

json::array members_json(const std::vector<extent_members>& extents) {
    json::array all;
    for (const extent_members& extent : extents) {
        json::array replicas;
        for (const member_address& one : extent.replicas)
            replicas.push_back(json::object{{"id", one.member.id.str()},
                                            {"state", to_string(one.member.state)},
                                            {"local", one.member.local},
                                            {"recovering", one.member.recovering},
                                            {"host", one.host},
                                            {"port", one.port}});
        all.push_back(json::object{{"size_bytes", extent.size_bytes}, {"replicas", std::move(replicas)}});
    }
    return all;
}

result<member_address> decode_member(const json::object& from) {
    member_address one;
    TRY_ASSIGN(std::string id, uuid(from, "id"));
    one.member.id = replica_id(std::move(id));
    TRY_ASSIGN(one.member.state, state_of_replica(from, "state"));
    TRY_ASSIGN(one.member.local, boolean(from, "local"));
    TRY_ASSIGN(one.member.recovering, boolean(from, "recovering"));
    TRY_ASSIGN(one.host, text(from, "host"));
    in6_addr address{};
    if (inet_pton(AF_INET, one.host.c_str(), &address) != 1 && inet_pton(AF_INET6, one.host.c_str(), &address) != 1)
        return wrong("host", "'" + printable(one.host.substr(0, 60)) + "' is not an IP address");
    TRY_ASSIGN(const std::uint32_t port, small_number(from, "port", 1, 65535));
    one.port = static_cast<std::uint16_t>(port);
    return one;
}

result<extent_members> decode_extent(const json::object& from) {
    extent_members extent;
    TRY_ASSIGN(extent.size_bytes, number(from, "size_bytes", block_bytes, std::uint64_t{1} << 62));
    if (extent.size_bytes % block_bytes != 0)
        return wrong("size_bytes", fmt::format("{} is not a multiple of {}", extent.size_bytes, block_bytes));
    TRY_ASSIGN(const json::array* replicas, array(from, "replicas"));
    if (replicas->empty() || replicas->size() > max_slots)
        return wrong("replicas", fmt::format("{} of them; 1 to {} are possible", replicas->size(), max_slots));
    std::set<replica_id> seen;
    for (const json::value& value : *replicas) {
        if (!value.is_object()) return wrong("replicas", "an element is not an object");
        auto one = decode_member(value.get_object());
        if (one.has_error()) return one.error().within(fmt::format("replicas[{}]", extent.replicas.size()));
        if (!seen.insert(one->member.id).second) return wrong("replicas", one->member.id.str() + " is listed twice");
        extent.replicas.push_back(std::move(*one));
    }
    return extent;
}

result<std::vector<extent_members>> decode_extents(const json::object& from) {
    TRY_ASSIGN(const json::array* extents, array(from, "extents"));
    if (extents->empty() || extents->size() > extents_max)
        return wrong("extents", fmt::format("{} of them; 1 to {} are possible", extents->size(), extents_max));
    std::vector<extent_members> all;
    std::uint64_t total = 0;
    for (const json::value& value : *extents) {
        if (!value.is_object()) return wrong("extents", "an element is not an object");
        auto one = decode_extent(value.get_object());
        if (one.has_error()) return one.error().within(fmt::format("extents[{}]", all.size()));
        // NBD sizes are signed 64-bit in nbdkit; each part is <= 2^62, so the sum cannot wrap before it is caught.
        total += one->size_bytes;
        if (total > (std::uint64_t{1} << 62)) return wrong("extents", "the volume is larger than 4 EiB");
        all.push_back(std::move(*one));
    }
    return all;
}

// --- layout

void add_layout(json::object& to, const volume_layout& layout) {
    to["chunk_bytes"] = layout.chunk_bytes;
    json::array stripes;
    for (const std::uint32_t count : layout.stripes) stripes.push_back(count);
    to["stripes"] = std::move(stripes);
    to["mirrored"] = layout.mirrored;
}

/// Without the field every extent is a segment by itself: so wrote it a Weft that could not stripe, and its servers
/// live on while weftd is upgraded.
result<volume_layout> decode_layout(const json::object& from, const std::vector<extent_members>& extents) {
    if (!from.contains("stripes")) return concatenation(extents.size());
    volume_layout layout;
    TRY_ASSIGN(layout.chunk_bytes, number(from, "chunk_bytes", 1, any_number));
    TRY_ASSIGN(const json::array* stripes, array(from, "stripes"));
    for (const json::value& value : *stripes) {
        if (!value.is_int64() || value.get_int64() < 1 || value.get_int64() > stripes_max)
            return wrong("stripes", fmt::format("an element is not a number from 1 to {}", stripes_max));
        layout.stripes.push_back(static_cast<std::uint32_t>(value.get_int64()));
    }
    if (from.contains("mirrored")) {  // as above
        TRY_ASSIGN(layout.mirrored, boolean(from, "mirrored"));
    }
    std::vector<std::uint64_t> sizes;
    for (const auto& extent : extents) sizes.push_back(extent.size_bytes);
    if (const auto fits = volume_map::make(layout, sizes); fits.has_error()) return wrong("stripes", fits.error().text);
    return layout;
}

// --- policy

json::object policy_json(const engine_policy& policy) {
    return {{"resync_rate", policy.resync_rate},
            {"on_full", to_string(policy.on_full)},
            {"scrub", policy.scrub},
            {"min_replicas", policy.min_replicas}};
}

result<engine_policy> decode_policy(const json::object& within) {
    TRY_ASSIGN(const json::value* value, member(within, "policy"));
    if (!value->is_object()) return wrong("policy", "is not an object");
    const json::object& from = value->get_object();
    engine_policy policy;
    TRY_ASSIGN(policy.resync_rate, number(from, "resync_rate", 0, any_number));
    TRY_ASSIGN(policy.on_full, (named<full_policy>(from, "on_full", full_policies, to_string)));
    TRY_ASSIGN(policy.scrub, number(from, "scrub", 0, any_number));
    TRY_ASSIGN(policy.min_replicas, small_number(from, "min_replicas", 0, max_slots));
    return policy;
}

// --- status

json::object slot_json(const slot_status& slot) {
    return {{"id", slot.id.str()},
            {"state", to_string(slot.state)},
            {"link_up", slot.link_up},
            {"resyncing", slot.resyncing},
            {"resync_done_bytes", slot.resync_done_bytes},
            {"resync_copied_bytes", slot.resync_copied_bytes},
            {"recovering", slot.recovering},
            {"full", slot.full}};
}

json::object scrub_json(const scrub_status& scrub) {
    return {{"serial", scrub.serial},
            {"running", scrub.running},
            {"done_bytes", scrub.done_bytes},
            {"differing_bytes", scrub.differing_bytes},
            {"repaired_bytes", scrub.repaired_bytes},
            {"undecided_bytes", scrub.undecided_bytes}};
}

json::object engine_json(const engine_status& status) {
    json::array slots;
    for (const slot_status& slot : status.slots) slots.push_back(slot_json(slot));
    return {{"state", to_string(status.state)},
            {"slots", std::move(slots)},
            {"recovery_left_bytes", status.recovery_left_bytes},
            {"dirty_bytes", status.dirty_bytes},
            {"waiting_for_space", status.waiting_for_space},
            {"scrub", scrub_json(status.scrub)},
            {"requests_in_flight", status.requests_in_flight},
            {"holding", status.holding},
            {"held_for_ms", status.held_for.count()},
            {"longest_hold_ms", status.longest_hold.count()},
            {"reads", status.reads},
            {"writes", status.writes},
            {"read_bytes", status.read_bytes},
            {"written_bytes", status.written_bytes}};
}

result<slot_status> decode_slot(const json::object& from) {
    slot_status slot;
    TRY_ASSIGN(std::string id, uuid(from, "id"));
    slot.id = replica_id(std::move(id));
    TRY_ASSIGN(slot.state, state_of_replica(from, "state"));
    TRY_ASSIGN(slot.link_up, boolean(from, "link_up"));
    TRY_ASSIGN(slot.resyncing, boolean(from, "resyncing"));
    TRY_ASSIGN(slot.resync_done_bytes, number(from, "resync_done_bytes", 0, any_number));
    TRY_ASSIGN(slot.resync_copied_bytes, number(from, "resync_copied_bytes", 0, any_number));
    TRY_ASSIGN(slot.recovering, boolean(from, "recovering"));
    TRY_ASSIGN(slot.full, boolean(from, "full"));
    return slot;
}

result<scrub_status> decode_scrub(const json::object& within) {
    TRY_ASSIGN(const json::value* value, member(within, "scrub"));
    if (!value->is_object()) return wrong("scrub", "is not an object");
    const json::object& from = value->get_object();
    scrub_status scrub;
    TRY_ASSIGN(scrub.serial, number(from, "serial", 0, any_number));
    TRY_ASSIGN(scrub.running, boolean(from, "running"));
    TRY_ASSIGN(scrub.done_bytes, number(from, "done_bytes", 0, any_number));
    TRY_ASSIGN(scrub.differing_bytes, number(from, "differing_bytes", 0, any_number));
    TRY_ASSIGN(scrub.repaired_bytes, number(from, "repaired_bytes", 0, any_number));
    TRY_ASSIGN(scrub.undecided_bytes, number(from, "undecided_bytes", 0, any_number));
    return scrub;
}

result<std::chrono::milliseconds> milliseconds(const json::object& from, std::string_view field) {
    TRY_ASSIGN(const std::uint64_t ms, number(from, field, 0, std::uint64_t{1} << 53));
    return std::chrono::milliseconds(static_cast<std::int64_t>(ms));
}

result<engine_status> decode_engine(const json::object& from) {
    engine_status status;
    TRY_ASSIGN(status.state, (named<engine_state>(from, "state", engine_states, to_string)));
    TRY_ASSIGN(const json::array* slots, array(from, "slots"));
    for (const json::value& value : *slots) {
        if (!value.is_object()) return wrong("slots", "an element is not an object");
        TRY_ASSIGN(slot_status slot, decode_slot(value.get_object()));
        status.slots.push_back(std::move(slot));
    }
    TRY_ASSIGN(status.recovery_left_bytes, number(from, "recovery_left_bytes", 0, any_number));
    TRY_ASSIGN(status.dirty_bytes, number(from, "dirty_bytes", 0, any_number));
    TRY_ASSIGN(status.waiting_for_space, boolean(from, "waiting_for_space"));
    TRY_ASSIGN(status.scrub, decode_scrub(from));
    TRY_ASSIGN(status.requests_in_flight, small_number(from, "requests_in_flight"));
    TRY_ASSIGN(status.holding, boolean(from, "holding"));
    TRY_ASSIGN(status.held_for, milliseconds(from, "held_for_ms"));
    TRY_ASSIGN(status.longest_hold, milliseconds(from, "longest_hold_ms"));
    TRY_ASSIGN(status.reads, number(from, "reads", 0, any_number));
    TRY_ASSIGN(status.writes, number(from, "writes", 0, any_number));
    TRY_ASSIGN(status.read_bytes, number(from, "read_bytes", 0, any_number));
    TRY_ASSIGN(status.written_bytes, number(from, "written_bytes", 0, any_number));
    return status;
}

// --- one decoder and one encoder per message that carries something

result<control_message> decode_hello(const json::object& from) {
    hello_message hello;
    TRY_ASSIGN(std::string id, uuid(from, "volume"));
    hello.id = volume_id(std::move(id));
    TRY_ASSIGN(hello.epoch, number(from, "epoch", 1, any_number));
    TRY_ASSIGN(const std::uint64_t pid, number(from, "pid", 1, std::uint64_t{1} << 31));
    hello.pid = static_cast<std::int64_t>(pid);
    return control_message{std::move(hello)};
}

result<control_message> decode_status(const json::object& from) {
    status_message status;
    TRY_ASSIGN(const json::array* extents, array(from, "extents"));
    for (const json::value& value : *extents) {
        if (!value.is_object()) return wrong("extents", "an element is not an object");
        auto one = decode_engine(value.get_object());
        if (one.has_error()) return one.error().within(fmt::format("extents[{}]", status.extents.size()));
        status.extents.push_back(std::move(*one));
    }
    return control_message{std::move(status)};
}

result<control_message> decode_propose(const json::object& from) {
    propose_message propose;
    TRY_ASSIGN(propose.id, number(from, "id", 1, any_number));
    TRY_ASSIGN(propose.extent, small_number(from, "extent"));
    TRY_ASSIGN(std::string id, uuid(from, "replica"));
    propose.replica = replica_id(std::move(id));
    TRY_ASSIGN(propose.to, state_of_replica(from, "to"));
    TRY_ASSIGN(propose.recovering, boolean(from, "recovering"));
    TRY_ASSIGN(propose.reason, text(from, "reason"));
    return control_message{std::move(propose)};
}

result<control_message> decode_notice(const json::object& from) {
    notice_message message;
    TRY_ASSIGN(message.what.severity, (named<notice::level>(from, "severity", levels, level_name)));
    TRY_ASSIGN(message.what.text, text(from, "text"));
    return control_message{std::move(message)};
}

result<control_message> decode_detached(const json::object& from) {
    detached_message message;
    TRY_ASSIGN(message.equal, boolean(from, "equal"));
    return control_message{message};
}

result<control_message> decode_result(const json::object& from) {
    result_message answer;
    TRY_ASSIGN(answer.id, number(from, "id", 1, any_number));
    TRY_ASSIGN(answer.outcome, (named<proposal_outcome>(from, "outcome", outcomes, outcome_name)));
    TRY_ASSIGN(answer.text, text(from, "text"));
    return control_message{std::move(answer)};
}

result<control_message> decode_members(const json::object& from) {
    members_message members;
    TRY_ASSIGN(members.extents, decode_extents(from));
    TRY_ASSIGN(members.policy, decode_policy(from));
    TRY_ASSIGN(members.layout, decode_layout(from, members.extents));
    return control_message{std::move(members)};
}

result<control_message> decode_leg(const json::object& from) {
    leg_message leg;
    TRY_ASSIGN(leg.extent, small_number(from, "extent"));
    TRY_ASSIGN(std::string id, uuid(from, "replica"));
    leg.replica = replica_id(std::move(id));
    TRY_ASSIGN(leg.what, (named<leg_event>(from, "what", leg_events, leg_event_name)));
    return control_message{std::move(leg)};
}

result<control_message> decode_lease(const json::object& from) {
    lease_message lease;
    TRY_ASSIGN(lease.until_ns, number(from, "until_ns", 0, std::numeric_limits<std::int64_t>::max()));
    return control_message{lease};
}

struct encoder {
    json::object operator()(const hello_message& m) const {
        return {{"type", "hello"}, {"volume", m.id.str()}, {"epoch", m.epoch}, {"pid", m.pid}};
    }
    json::object operator()(const status_message& m) const {
        json::array extents;
        for (const engine_status& one : m.extents) extents.push_back(engine_json(one));
        return {{"type", "status"}, {"extents", std::move(extents)}};
    }
    json::object operator()(const propose_message& m) const {
        return {{"type", "propose"},         {"id", m.id},
                {"extent", m.extent},        {"replica", m.replica.str()},
                {"to", to_string(m.to)},     {"reason", printable(m.reason)},
                {"recovering", m.recovering}};
    }
    json::object operator()(const notice_message& m) const {
        return {{"type", "notice"}, {"severity", level_name(m.what.severity)}, {"text", printable(m.what.text)}};
    }
    json::object operator()(const detached_message& m) const { return {{"type", "detached"}, {"equal", m.equal}}; }
    json::object operator()(const get_status_message&) const { return {{"type", "get_status"}}; }
    json::object operator()(const result_message& m) const {
        return {{"type", "result"}, {"id", m.id}, {"outcome", outcome_name(m.outcome)}, {"text", printable(m.text)}};
    }
    json::object operator()(const members_message& m) const {
        json::object all{{"type", "members"}, {"extents", members_json(m.extents)}, {"policy", policy_json(m.policy)}};
        add_layout(all, m.layout);
        return all;
    }
    json::object operator()(const leg_message& m) const {
        return {{"type", "leg"}, {"extent", m.extent}, {"replica", m.replica.str()}, {"what", leg_event_name(m.what)}};
    }
    json::object operator()(const detach_message&) const { return {{"type", "detach"}}; }
    json::object operator()(const lease_message& m) const { return {{"type", "lease"}, {"until_ns", m.until_ns}}; }
};

result<attach_config> decode_attach_object(const json::object& from) {
    attach_config config;
    TRY_ASSIGN(config.volume, text(from, "volume"));
    TRY_ASSIGN(std::string id, uuid(from, "id"));
    config.id = volume_id(std::move(id));
    TRY_ASSIGN(config.epoch, number(from, "epoch", 1, any_number));
    TRY_ASSIGN(config.clean, boolean(from, "clean"));
    if (from.contains("device_lives")) {  // a Weft without mirrored volumes wrote none
        TRY_ASSIGN(config.device_lives, boolean(from, "device_lives"));
    }
    TRY_ASSIGN(config.min_replicas, small_number(from, "min_replicas", 1, max_slots));
    TRY_ASSIGN(config.connections, small_number(from, "connections", 1, connections_max));
    TRY_ASSIGN(config.request_timeout_ms, small_number(from, "request_timeout_ms", 1, milliseconds_max));
    TRY_ASSIGN(config.reconnect_window_ms, small_number(from, "reconnect_window_ms", 0, milliseconds_max));
    TRY_ASSIGN(config.attach_timeout_ms, small_number(from, "attach_timeout_ms", 1, milliseconds_max));
    TRY_ASSIGN(config.policy, decode_policy(from));
    TRY_ASSIGN(config.extents, decode_extents(from));
    TRY_ASSIGN(config.layout, decode_layout(from, config.extents));
    if (config.layout.mirrored && config.min_replicas > 1)
        return wrong("min_replicas", fmt::format("is {} for a mirrored volume", config.min_replicas));
    return config;
}

}  // namespace

std::string encode_attach_config(const attach_config& config) {
    json::object all{{"volume", config.volume},
                     {"id", config.id.str()},
                     {"epoch", config.epoch},
                     {"clean", config.clean},
                     {"device_lives", config.device_lives},
                     {"min_replicas", config.min_replicas},
                     {"connections", config.connections},
                     {"request_timeout_ms", config.request_timeout_ms},
                     {"reconnect_window_ms", config.reconnect_window_ms},
                     {"attach_timeout_ms", config.attach_timeout_ms},
                     {"policy", policy_json(config.policy)},
                     {"extents", members_json(config.extents)}};
    add_layout(all, config.layout);
    return json::serialize(all);
}

result<attach_config> decode_attach_config(std::string_view text_of_file) {
    TRY_ASSIGN(const json::object object, parse_object(text_of_file, "the attach configuration"));
    auto config = decode_attach_object(object);
    if (config.has_error()) return config.error().within("the attach configuration");
    return config;
}

std::string encode_control(const control_message& message) {
    return json::serialize(std::visit(encoder{}, message));
}

result<control_message> decode_control(std::string_view line) {
    if (line.size() > control_line_max)
        return error{errc::corrupt, fmt::format("a control message of {} bytes", line.size())};
    TRY_ASSIGN(const json::object from, parse_object(line, "a control message"));
    TRY_ASSIGN(const std::string type, text(from, "type"));
    auto message = [&]() -> result<control_message> {
        if (type == "hello") return decode_hello(from);
        if (type == "status") return decode_status(from);
        if (type == "propose") return decode_propose(from);
        if (type == "notice") return decode_notice(from);
        if (type == "detached") return decode_detached(from);
        if (type == "get_status") return control_message{get_status_message{}};
        if (type == "result") return decode_result(from);
        if (type == "members") return decode_members(from);
        if (type == "leg") return decode_leg(from);
        if (type == "lease") return decode_lease(from);
        if (type == "detach") return control_message{detach_message{}};
        return wrong("type", "'" + printable(type.substr(0, 40)) + "' is not a control message");
    }();
    if (message.has_error()) return message.error().within("control message '" + printable(type.substr(0, 40)) + "'");
    return message;
}

}  // namespace weft::core
