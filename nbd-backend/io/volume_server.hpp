// SPDX-License-Identifier: Apache-2.0
// All extents of one volume: cuts requests on the whole volume, or on one extent, into requests on engines; lets time
// pass for them; answers weftd.
//
// An export shows the whole volume, laid out as core/volume_layout.hpp says, or one extent; of a mirrored volume, where
// the kernel replicates, one replica of an extent as a leg, and nothing else. NBD promises nothing about
// the atomicity of a request, so the parts of one that crosses extents run side by side.
//
// A volume grows while it is served: members with more extents than before add engines. What is served is a `shape`;
// one that was published stays as it is until the end, so a request needs no lock to read it, and a connection keeps
// the size that it began with.
//
// Life: create ─▶ listen ─▶ start (threads exist from here on) ─▶ stop. submit() from any thread between start and
// destruction; it blocks its thread until the request has ended, which under R4 may take as long as the store is away;
// stop() ends everything that waits with ESHUTDOWN.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/core/control_message.hpp"
#include "nbd-backend/io/control_server.hpp"
#include "nbd-backend/io/engine_host.hpp"
#include "nbd-backend/io/request_waiter.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

/// What an export shows.
struct volume_window {
    std::optional<std::size_t> extent;  // none: the whole volume
    std::uint64_t size_bytes = 0;
    replica_id leg = {};  // of a mirrored volume: the only replica that it shows
};

class volume_server final : private control_handler {
public:
    explicit volume_server(core::attach_config config);
    ~volume_server();
    volume_server(const volume_server&) = delete;
    volume_server& operator=(const volume_server&) = delete;

    /// Makes the control socket; connections wait there until start(). Errors: as control_server::listen.
    weft::status listen(const std::string& control_path);
    /// Errors: io_failed.
    weft::status start();
    /// Idempotent; one thread at a time.
    void stop();

    /// "" and "volume": everything; "extent/N"; of a mirrored volume "leg/N/REPLICA" and no other. Errors: not_found,
    /// saying what there is.
    [[nodiscard]] result<volume_window> find_export(std::string_view name) const;
    [[nodiscard]] std::vector<std::string> export_names() const;
    /// For people: what an export shows.
    [[nodiscard]] std::string describe() const;

    /// Carries out a request on a window and waits for its end. `what.offset` is relative to the window, `what.cookie`
    /// is ignored; a zero or trim may be longer than max_request_bytes. Returns 0 or an errno.
    int submit(request_waiter& waiter, const volume_window& window, const core::request& what);

private:
    std::vector<core::engine_status> status() override;
    void on_result(std::uint32_t extent, std::uint64_t proposal, core::proposal_outcome outcome) override;
    weft::status on_members(const core::members_message& members) override;
    void on_leg(const core::leg_message& leg) override;
    void on_detach() override;
    void on_lease(core::instant until) override;

    /// Immutable once published.
    struct shape {
        core::volume_map map;
        std::vector<engine_host*> hosts;  // one for each extent
    };
    [[nodiscard]] const shape& now() const noexcept { return *shape_.load(std::memory_order_acquire); }
    void publish(core::volume_map map);
    [[nodiscard]] result<volume_window> find_leg(std::string_view name) const;
    weft::status grow(const core::members_message& members);
    int flush(request_waiter& waiter, const volume_window& window);

    core::attach_config config_;  // grows on the control thread
    control_server control_;
    tick_timer timer_;
    copy_budget budget_;
    std::atomic<const shape*> shape_{nullptr};

    std::mutex growth_;  // guards what follows, and that nothing is started after stop()
    bool stopped_ = false;
    bool detached_ = false;
    core::instant lease_{0};
    std::vector<std::unique_ptr<engine_host>> hosts_;
    std::vector<std::unique_ptr<const shape>> shapes_;
};

}  // namespace weft::io
