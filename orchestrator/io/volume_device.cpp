// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/volume_device.hpp"

#include <fmt/format.h>

#include <cerrno>

#include "orchestrator/io/crypt_layer.hpp"
#include "orchestrator/io/kernel_attach.hpp"
#include "orchestrator/io/mirror_legs.hpp"
#include "orchestrator/io/portable_attach.hpp"

namespace weft {

namespace {

kernel_scope scope_of(const daemon_options& options) {
    return {options.node.str(), options.device_scope};
}

volume_device_state state_of(const portable_state& found) {
    volume_device_state state;
    state.nothing = found.nothing();
    state.usable = found.usable;
    for (const auto& loop : found.loops) state.devices.push_back(loop.numbers);
    state.mount_points = found.mount_points;
    return state;
}

}  // namespace

result<bool> volume_devices::use_kernel() const {
    switch (options_.attach) {
        case attach_way::portable: return false;
        case attach_way::kernel: TRY(kernel_attach_possible()); return true;
        case attach_way::automatic: break;
    }
    return kernel_attach_possible().has_value();
}

result<volume_device_state> volume_devices::observe(const volume_paths& paths, const volume_id& id) const {
    TRY_ASSIGN(auto kernel, observe_kernel(scope_of(options_), id));
    if (!kernel.nothing) return kernel;
    TRY_ASSIGN(const auto portable, observe_portable(paths));
    return state_of(portable);
}

result<std::vector<volume_id>> volume_devices::volumes() const {
    return volumes_in_kernel(scope_of(options_));
}

result<std::string> volume_devices::attach(const volume_paths& paths, const volume_shape& shape,
                                           const attach_wait& wait) const {
    TRY_ASSIGN(const auto kernel, observe_kernel(scope_of(options_), shape.id));
    TRY_ASSIGN(const auto portable, observe_portable(paths));
    bool by_kernel = !kernel.nothing;
    if (kernel.nothing && portable.nothing()) {
        TRY_ASSIGN(by_kernel, use_kernel());
    }
    if (shape.encryption && !by_kernel) {
        TRY(encryption_possible());
        return error{errc::unsupported,
                     fmt::format("volume '{}' is encrypted and attached portably on this node, which cannot unlock it; "
                                 "detach it, and mount it again",
                                 shape.name)};
    }
    if (!by_kernel && shape.layout.mirrored)
        return error{errc::unsupported,
                     fmt::format("volume '{}' is mirrored by device-mapper, which needs a kernel with nbd and "
                                 "device-mapper and `attach` not set to portable; use it on a node that has them",
                                 shape.name)};
    return by_kernel ? attach_kernel(scope_of(options_), paths, shape, wait) : attach_portable(paths, wait.timeout);
}

result<std::vector<leg_report>> volume_devices::legs(const volume_shape& shape) const {
    return read_legs(scope_of(options_), shape);
}

result<std::vector<set_state>> volume_devices::sets(const volume_shape& shape) const {
    return read_sets(scope_of(options_), shape);
}

status volume_devices::order_set(const volume_shape& shape, std::size_t extent, set_order what) const {
    return weft::order_set(scope_of(options_), shape, extent, what);
}

status volume_devices::encryption_possible() const {
    const auto refused = [](const std::string& why) {
        return error{
            errc::unsupported,
            fmt::format("an encrypted volume needs the kernel attach (nbd and device-mapper), and this node {}; "
                        "use another node, or `attach = auto` in its configuration and a kernel with both",
                        why)};
    };
    if (options_.attach == attach_way::portable) return refused("is configured with `attach = portable`");
    if (const auto possible = kernel_attach_possible(); possible.has_error())
        return refused(fmt::format("cannot do it ({})", possible.error().text));
    return ok();
}

result<std::string> volume_devices::unlock(const volume_shape& shape, const std::string& device, int server) const {
    if (!shape.encryption) return device;
    return unlock_device(options_, scope_of(options_), shape, device, server);
}

status volume_devices::teardown(const volume_paths& paths, const volume_id& id, const teardown_options& options) const {
    TRY(teardown_kernel(scope_of(options_), id, options));
    return teardown_portable(paths, options);
}

status refuse_foreign_mounts(const volume_device_state& state, const std::filesystem::path& ours,
                             const std::string& device) {
    for (const auto& mount_point : state.mount_points)
        if (mount_point != ours.string())
            return error{errc::busy, EBUSY,
                         fmt::format("{} is mounted at {}, too; unmount it there first", device, mount_point)};
    for (const auto& numbers : state.devices) {
        TRY_ASSIGN(const auto holders, foreign_holders(numbers));
        if (!holders.empty())
            return error{errc::busy, EBUSY, fmt::format("{} is {}; nothing was torn down", device, describe(holders))};
    }
    return ok();
}

}  // namespace weft
