// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/kernel_attach.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "dm-tables/core/crypt_device.hpp"
#include "dm-tables/core/plan.hpp"
#include "dm-tables/core/volume_stack.hpp"
#include "dm-tables/io/dm_driver.hpp"
#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/nbd_identity.hpp"
#include "orchestrator/io/crypt_layer.hpp"
#include "orchestrator/io/dm_process.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/mirror_legs.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

result<dm::observation> observe_volume(const kernel_scope& scope, const volume_id& id,
                                       const std::vector<dm::volume_stack>& wanted) {
    TRY_ASSIGN(auto all, dm::driver::observe(wanted));
    const auto is_of_volume = [&](const dm::observed_device& device) {
        const auto who = dm::parse_uuid(device.uuid);
        return who.has_value() && who->volume_id == id.str() && who->scope == scope.scope;
    };
    std::set<std::string> clear;  // the name that this volume's clear device would have
    for (const auto& device : all.devices)
        if (is_of_volume(device)) clear.insert(dm::crypt_name(device.name));
    std::erase_if(all.devices, [&](const dm::observed_device& device) {
        if (dm::is_crypt_device(device.name, device.uuid)) return !clear.contains(device.name);
        if (dm::parse_uuid(device.uuid).has_value()) return !is_of_volume(device);
        return std::none_of(wanted.begin(), wanted.end(), [&](const dm::volume_stack& stack) {
            return std::any_of(stack.devices.begin(), stack.devices.end(),
                               [&](const dm::dm_device& one) { return one.name == device.name; });
        });
    });
    return all;
}

const dm::observed_device* find_top(const dm::observation& found) {
    for (const auto& device : found.devices) {
        const auto who = dm::parse_uuid(device.uuid);
        if (who.has_value() && who->role.what == dm::device_role::part::volume) return &device;
    }
    return nullptr;
}

namespace {

using std::chrono::milliseconds;

/// A plan needs two rounds at most (plan.hpp, P1); one more for a device that udev was just looking at.
constexpr int rounds_max = 4;
constexpr std::chrono::seconds node_wait{60};
/// The command itself takes a moment; that the device is not free then is because device-mapper has it open.
constexpr milliseconds cut_wait{500};

/// Without asking libdevmapper, which would try to make a control node. A kernel that has it as a module may not have
/// loaded it yet: then no device is there.
bool dm_is_loaded() {
    std::error_code failed;
    return std::filesystem::exists("/sys/class/misc/device-mapper", failed);
}

result<std::string> mark_of(const kernel_scope& scope, const volume_id& id, std::size_t extent) {
    return encode_nbd_identity({scope.node, id, static_cast<std::uint16_t>(extent)});
}

result<std::vector<nbd_device>> nbd_devices_of(const kernel_scope& scope, const volume_id& id) {
    TRY_ASSIGN(const auto prefix, nbd_identity_prefix(scope.node, id));
    return find_nbd(prefix);
}

/// "253:0". Device-mapper says so of its own devices.
device_number parse_number(std::string_view text) {
    device_number number;
    const auto colon = text.find(':');
    std::from_chars(text.data(), text.data() + colon, number.major);
    std::from_chars(text.data() + colon + 1, text.data() + text.size(), number.minor);
    return number;
}

std::string render_number(const device_number& number) {
    return fmt::format("{}:{}", number.major, number.minor);
}

/// Reports that stand for "this volume was left alone".
bool stops(const dm::report& report) {
    using kind = dm::report::kind;
    return report.what == kind::name_taken || report.what == kind::device_missing ||
           report.what == kind::would_shrink || report.what == kind::leftover_in_use;
}

/// Plans and carries out until nothing is left to do. Errors: busy, with the plan's words.
status converge(const kernel_scope& scope, const volume_id& id, const std::vector<dm::volume_stack>& wanted,
                int server) {
    TRY(await_steps(id, server));
    for (int round = 0; round < rounds_max; ++round) {
        TRY_ASSIGN(const auto found, observe_volume(scope, id, wanted));
        const auto plan = dm::make_plan(wanted, found, scope.scope);
        for (const auto& report : plan.reports)
            if (stops(report)) return error{errc::busy, report.text};
        if (plan.steps.empty() && !plan.more) return ok();
        TRY(apply_steps(id, plan.steps, server));
        WEFT_CRASH_POINT("kernel.dm-applied");
    }
    return error{errc::busy, "device-mapper's devices of the volume do not come to rest; somebody else changes them"};
}

static_assert(dm::leg_meta_bytes == core::mirror_meta_bytes);

dm::volume_layout layout_of(const kernel_scope& scope, const volume_shape& shape) {
    dm::volume_layout layout;
    layout.volume_id = shape.id.str();
    layout.volume_name = shape.name;
    layout.scope = scope.scope;
    layout.chunk_bytes = shape.layout.chunk_bytes;
    layout.kind = shape.layout.mirrored ? dm::layout_kind::mirrored : dm::layout_kind::striped;
    layout.resync_kib_per_second = shape.resync_rate / kib;
    return layout;
}

/// The extents of a striped volume as nbd devices, by segment.
result<std::vector<dm::layout_segment>> connect_extents(const kernel_scope& scope, const volume_paths& paths,
                                                        const volume_shape& shape, milliseconds timeout) {
    std::vector<dm::layout_segment> segments;
    std::size_t extent = 0;
    for (const auto stripes : shape.layout.stripes) {
        dm::layout_segment segment;
        for (std::uint32_t i = 0; i < stripes; ++i, ++extent) {
            TRY_ASSIGN(auto mark, mark_of(scope, shape.id, extent));
            const std::uint64_t bytes = shape.extent_sizes[extent];
            auto made = connect_export(paths, fmt::format("extent/{}", extent), std::move(mark), bytes, timeout);
            if (made.has_error()) return made.error().within(fmt::format("connect extent {} to nbd", extent));
            segment.extents.push_back({made->device, bytes, dm::leg_state::up_to_date});
            WEFT_CRASH_POINT("kernel.nbd-connected");
        }
        segments.push_back(std::move(segment));
    }
    return segments;
}

/// Does everything that this device maps end at nbd devices of the volume's that are connected? Of a mirrored set one
/// whole leg is enough: it may be about to lose another.
bool is_sound(const std::string& number, const dm::observation& found, const std::set<std::string>& connected) {
    if (connected.contains(number)) return true;
    const auto device = std::find_if(found.devices.begin(), found.devices.end(),
                                     [&](const dm::observed_device& one) { return one.number == number; });
    if (device == found.devices.end() || !device->active || device->active->empty()) return false;
    const auto used = dm::numbers_in(*device->active);
    const auto sound = [&](const std::string& one) { return is_sound(one, found, connected); };
    if (device->active->front().type != "raid") return std::all_of(used.begin(), used.end(), sound);
    for (std::size_t i = 0; i + 1 < used.size(); i += 2)  // metadata and data of a leg, in turn
        if (sound(used[i]) && sound(used[i + 1])) return true;
    return false;
}

/// What a helper leaves that is killed between a suspend and its resume: nothing under the device would move. A table
/// that was loaded and never ran is not to run now.
status let_go_on(const kernel_scope& scope, const volume_id& id, int server) {
    TRY(await_steps(id, server));
    TRY_ASSIGN(const auto found, observe_volume(scope, id, {}));
    std::vector<dm::step> steps;
    for (const auto& device : found.devices) {
        if (!device.suspended || !device.active) continue;
        if (device.inactive) steps.push_back({dm::step::verb::clear, device.name, device.uuid, {}});
        steps.push_back({dm::step::verb::resume, device.name, device.uuid, {}});
    }
    return steps.empty() ? ok() : apply_steps(id, steps, server);
}

/// The device is there, but its node is udev's to make, which looks at the device first. Whoever made the device has
/// waited for that, unless it was killed.
status await_node(const std::string& device, int server) {
    std::error_code failed;
    if (std::filesystem::exists(device, failed)) return ok();
    run_request settle{
        {"udevadm", "settle", "--exit-if-exists=" + device, fmt::format("--timeout={}", node_wait.count())},
        node_wait + node_wait};
    settle.give_up_fd = server;
    auto settled = run(settle);
    if (settled.has_error()) return settled.error().within("wait for " + device);
    if (std::filesystem::exists(device, failed)) return ok();
    return error{errc::timed_out, fmt::format("udev has not made {} (udevadm settle: exit code {}); does udevd run?",
                                              device, settled->exit_code)};
}

}  // namespace

result<nbd_device> connect_export(const volume_paths& paths, std::string export_name, std::string mark,
                                  std::uint64_t bytes, milliseconds timeout) {
    nbd_spec spec;
    spec.socket = paths.nbd_socket;
    spec.export_name = std::move(export_name);
    spec.backend = std::move(mark);
    spec.bytes = bytes;
    spec.block_bytes = static_cast<std::uint32_t>(block_bytes);
    spec.handshake_timeout = timeout;
    TRY_ASSIGN(auto made, connect_nbd(spec));
    return std::move(made.device);
}

status kernel_attach_possible() {
    TRY(load_nbd_module());
    return dm::driver::check_available();
}

result<std::vector<volume_id>> volumes_in_kernel(const kernel_scope& scope) {
    std::set<volume_id> ours;
    std::set<volume_id> others;
    TRY_ASSIGN(const auto connected, find_nbd(std::string(nbd_identity_mark)));
    for (const auto& device : connected)
        if (const auto who = decode_nbd_identity(device.backend); who.has_value())
            (who->scope == scope.node ? ours : others).insert(who->volume);
    if (dm_is_loaded()) {
        TRY_ASSIGN(const auto found, dm::driver::observe({}));
        for (const auto& device : found.devices)
            if (const auto who = dm::parse_uuid(device.uuid); who.has_value() && who->scope == scope.scope)
                ours.insert(volume_id{who->volume_id});
    }
    // Another weftd on this kernel, which did not give its device-mapper devices a scope.
    for (const auto& id : others) ours.erase(id);
    return std::vector<volume_id>(ours.begin(), ours.end());
}

result<volume_device_state> observe_kernel(const kernel_scope& scope, const volume_id& id) {
    volume_device_state state;
    state.outlives_server = true;
    TRY_ASSIGN(const auto connected, nbd_devices_of(scope, id));
    dm::observation found;
    if (dm_is_loaded()) {
        TRY_ASSIGN(found, observe_volume(scope, id, {}));
    }
    state.nothing = connected.empty() && found.devices.empty();
    const auto* top = find_top(found);
    if (top == nullptr) return state;
    state.devices.push_back(parse_number(top->number));
    if (top->active) state.growable_bytes = dm::length_sectors(*top->active) * dm::sector_bytes;
    std::set<std::string> numbers;
    for (const auto& device : connected) numbers.insert(render_number(device.numbers));
    state.usable = is_sound(top->number, found, numbers);
    bool suspended = top->suspended;
    if (const auto* clear = dm::find_crypt(found, top->name); clear != nullptr) {
        state.unlocked = true;
        state.devices.push_back(parse_number(clear->number));
        const auto reach = clear->active ? dm::crypt_reach_sectors(*clear->active) : std::nullopt;
        // A device that has grown under a clear one that has not yet is as small as that.
        if (reach) state.growable_bytes = std::min(state.growable_bytes, *reach * dm::sector_bytes);
        state.usable = state.usable && reach.has_value();
        suspended = suspended || clear->suspended;
    }
    state.suspended = state.usable && suspended;
    state.usable = state.usable && !suspended;
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    for (const auto& mount : mounts)
        if (std::find(state.devices.begin(), state.devices.end(), mount.device) != state.devices.end())
            state.mount_points.push_back(mount.mount_point);
    return state;
}

result<std::string> attach_kernel(const kernel_scope& scope, const volume_paths& paths, const volume_shape& shape,
                                  const attach_wait& wait) {
    TRY(kernel_attach_possible());
    auto layout = layout_of(scope, shape);
    if (shape.layout.mirrored) {
        TRY_ASSIGN(const auto found, observe_volume(scope, shape.id, {}));
        TRY_ASSIGN(layout.segments, connect_legs(scope, paths, shape, found, wait));
    } else {
        TRY_ASSIGN(layout.segments, connect_extents(scope, paths, shape, wait.timeout));
    }
    TRY_ASSIGN(auto stack, dm::make_volume_stack(layout));
    std::string device = dm::node_path(stack.top().name);
    TRY(converge(scope, shape.id, {std::move(stack)}, wait.server));
    TRY(await_node(device, wait.server));
    if (shape.layout.mirrored) TRY(release_legs(scope, shape, wait.timeout));
    return device;
}

status teardown_kernel(const kernel_scope& scope, const volume_id& id, const teardown_options& options) {
    TRY_ASSIGN(const auto state, observe_kernel(scope, id));
    if (state.nothing) return ok();
    TRY_ASSIGN(const auto connected, nbd_devices_of(scope, id));
    // With the server gone for good, requests that wait for the next one shall fail, also those of whoever holds the
    // file system (R5). That they are really free the last step sees to.
    if (options.server_is_gone)
        for (const auto& device : connected)
            if (auto cut = disconnect_nbd(device, cut_wait);
                cut.has_error() && cut.error().code != errc::busy && cut.error().code != errc::timed_out)
                return cut;
    WEFT_CRASH_POINT("kernel.cut");
    if (!state.devices.empty())
        TRY(refuse_foreign_mounts(state, options.mount_point,
                                  fmt::format("device {}", render_number(state.devices.front()))));
    if (dm_is_loaded()) TRY(let_go_on(scope, id, options.server));
    if (!state.mount_points.empty()) TRY(unmount_filesystem(options.mount_point, options.timeout));
    WEFT_CRASH_POINT("kernel.unmounted");
    if (dm_is_loaded()) {
        TRY(remove_clear_device(scope, id, options.server));
        WEFT_CRASH_POINT("kernel.crypt-gone");
        TRY(converge(scope, id, {}, options.server));
    }
    WEFT_CRASH_POINT("kernel.dm-gone");
    for (const auto& device : connected) TRY(disconnect_nbd(device, options.timeout));
    WEFT_CRASH_POINT("kernel.nbd-gone");
    return ok();
}

}  // namespace weft
