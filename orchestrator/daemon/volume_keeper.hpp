// SPDX-License-Identifier: Apache-2.0
// The volumes that are attached on this node: Docker's and the administrator's uses of them, and what the reconciler
// wants done to them.
//
// Laws: a reference is durable before it is answered. A mount that fails leaves neither a reference nor an attachment
// that only it needed. Nothing is taken down while a reference of the present dockerd, an administrator, or another
// mount namespace holds it; references of an earlier dockerd count for suspect_grace only. Whoever goes down takes the
// volume's `operation` lock first and looks again.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "orchestrator/api/service.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/daemon/attach_steps.hpp"
#include "orchestrator/daemon/gates.hpp"
#include "orchestrator/io/dm_watch.hpp"
#include "orchestrator/io/nbd_watch.hpp"

namespace weft {

class volume_keeper {
public:
    explicit volume_keeper(attach_steps::environment around) : env_(around), steps_(around) {}

    /// Finds what runs and what is left over, at start-up.
    void adopt();
    /// Waiting calls return with shutting_down.
    void give_up();
    /// Drops the connections to the volume servers, which live on; no callback comes afterwards. No call may run.
    void let_go();

    result<std::string> mount(const std::string& name, const std::string& mount_id);
    /// As service::mount_answered.
    void mount_answered(const std::string& name, const std::string& mount_id, bool delivered);
    status unmount(const std::string& name, const std::string& mount_id);
    result<attachment_view> attach(const std::string& name, bool force);
    status detach(const std::string& name);
    /// Another volume server under the living device. Errors: not_found; as attach_steps::restart_server.
    result<volume_record> restart(const std::string& name);
    void dockerd_started();

    /// The machine goes down: every attachment is taken down, whoever used it, as soon as no foreign mount namespace
    /// holds it. Errors: busy, naming what was left after `patience` and why.
    status take_all_down(std::chrono::milliseconds patience);

    /// Before a removal: takes an unused attachment down. Errors: busy, saying who uses it here.
    status make_idle(const volume_record& record);

    [[nodiscard]] std::string mountpoint_of(const volume_id& id) const;
    [[nodiscard]] std::vector<core::engine_status> live_status_of(const volume_id& id) const;

    // For the reconciler.
    [[nodiscard]] std::vector<observed_attachment> observe();
    void tell_members(const cluster_view& view);
    /// Also for an unused one whose server is dead.
    status do_detach_unused(const volume_id& id);
    status do_tear_down(const tear_down_fenced& what);
    status do_grow(const grow_device& what);
    status do_follow_legs(const follow_legs& what);
    status do_replace_server(const replace_server& what);
    status do_abandon(const abandon_writer& what);

private:
    result<volume_record> record_for(const std::string& name, bool force);
    using path_step = result<std::string> (attach_steps::*)(attachment&, const volume_record&);
    result<std::string> over_servers(attachment& of, const volume_record& as_attached, path_step step);
    result<std::string> mount_locked(attachment& of, const volume_record& record, const std::string& mount_id);
    status adjust(const volume_id& id, const std::string& name,
                  status (attach_steps::*step)(attachment&, const volume_record&));
    status go_down_when_free(attachment& of, std::chrono::nanoseconds deadline);
    status go_down_by(attachment& of, std::chrono::nanoseconds deadline);
    [[nodiscard]] bool count_as_used(attachment& of, bool held);
    [[nodiscard]] observed_attachment observe_one(attachment& of);
    void reaffirm_record(control_link& link, const volume_record& record);
    std::vector<volume_id> present() const;
    struct use_set {
        mount_refs refs;
        bool administrative = false;
    };
    /// A copy of the references, with a restart of dockerd that was not noted yet. With `operation` held.
    static use_set uses_of(const attachment& of);
    // With `operation` held:
    void note_restart(attachment& of);
    void doubt_unanswered(attachment& of);
    void go_down_unused(attachment& of, const std::string& name);
    [[nodiscard]] static std::uint64_t answers_under_way(const attachment& of, const std::string& mount_id);

    void watch_devices();
    void observe_strays(const std::vector<volume_id>& here, std::vector<observed_attachment>& all);

    const attach_steps::environment env_;
    attach_steps steps_;
    stop_gate stop_;
    std::set<volume_id> held_strays_;       // planner's thread; told of already
    std::unique_ptr<nbd_watch> watch_;      // planner's thread; its callback uses what is above
    std::unique_ptr<dm_watch> legs_watch_;  // the same
};

}  // namespace weft
