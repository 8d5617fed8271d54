// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/mount_refs.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "orchestrator/core/json_fields.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace json = boost::json;
namespace fields = json_fields;

namespace {
constexpr std::size_t mount_id_max = 128;
constexpr std::uint64_t format_version = 1;
}  // namespace

void mount_refs::add(const std::string& id, std::uint64_t under_way) {
    mount_ref& ref = refs_[id];
    if (ref.pending > under_way) return;
    ref.count += 1;
    ref.current += 1;
    ref.pending += 1;
}

bool mount_refs::answered(const std::string& id) {
    const auto found = refs_.find(id);
    if (found == refs_.end() || found->second.pending == 0) return false;
    found->second.pending -= 1;
    return true;
}

bool mount_refs::unanswered(const std::string& id) {
    return answered(id) && remove(id);
}

bool mount_refs::any_pending() const {
    return std::any_of(refs_.begin(), refs_.end(), [](const auto& entry) { return entry.second.pending > 0; });
}

void mount_refs::doubt() {
    for (auto& [id, ref] : refs_) ref.current -= std::exchange(ref.pending, 0);
}

bool mount_refs::remove(const std::string& id) {
    const auto found = refs_.find(id);
    if (found == refs_.end()) return false;
    mount_ref& ref = found->second;
    ref.count -= 1;
    if (ref.current > 0) ref.current -= 1;
    ref.pending = std::min(ref.pending, ref.current);  // whoever gives one back has had an answer
    if (ref.count == 0) refs_.erase(found);
    return true;
}

void mount_refs::activate() {
    dockerd_epoch_ += 1;
    for (auto& [id, ref] : refs_) ref.current = ref.pending = 0;
}

bool mount_refs::unused() const {
    return std::all_of(refs_.begin(), refs_.end(), [](const auto& entry) { return entry.second.current == 0; });
}

std::string mount_refs::encode() const {
    json::object refs;
    for (const auto& [id, ref] : refs_) {
        json::object entry{{"count", ref.count}, {"current", ref.current}};
        if (ref.pending > 0) entry["pending"] = ref.pending;
        refs[id] = std::move(entry);
    }
    return json::serialize(
        json::object{{"version", format_version}, {"dockerd_epoch", dockerd_epoch_}, {"refs", std::move(refs)}});
}

result<mount_refs> mount_refs::decode(std::string_view text) {
    TRY_ASSIGN(const auto object, fields::parse_object(text));
    TRY(fields::expect_fields(object, {"version", "dockerd_epoch", "refs"}));
    TRY_ASSIGN(const auto version, fields::number(object, "version"));
    if (version != format_version)
        return fields::wrong("version", fmt::format("is {}, not {}", version, format_version));
    mount_refs decoded;
    TRY_ASSIGN(decoded.dockerd_epoch_, fields::number(object, "dockerd_epoch"));
    TRY_ASSIGN(const auto* refs, fields::object_of(object, "refs"));
    for (const auto& member : *refs) {
        const std::string id(member.key());
        if (const auto good = check_mount_id(id); good.has_error()) return fields::wrong("refs", good.error().text);
        if (!member.value().is_object()) return fields::wrong(printable(id), "is not an object");
        const auto& entry = member.value().get_object();
        const bool pending = entry.contains("pending");
        TRY(pending ? fields::expect_fields(entry, {"count", "current", "pending"})
                    : fields::expect_fields(entry, {"count", "current"}));
        mount_ref ref;
        TRY_ASSIGN(ref.count, fields::number(entry, "count"));
        if (ref.count == 0) return fields::wrong("count", "is 0");
        TRY_ASSIGN(ref.current, fields::number(entry, "current", ref.count));
        if (pending) {
            TRY_ASSIGN(ref.pending, fields::number(entry, "pending", ref.current));
            if (ref.pending == 0) return fields::wrong("pending", "is 0");
        }
        decoded.refs_[id] = ref;
    }
    return decoded;
}

status check_mount_id(std::string_view id) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
               c == '-';
    };
    if (!id.empty() && id.size() <= mount_id_max && std::all_of(id.begin(), id.end(), allowed)) return ok();
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a mount ID: allowed are 1 to {} letters, digits, '_', '.' and '-'",
                             printable(id), mount_id_max)};
}

}  // namespace weft
