// SPDX-License-Identifier: Apache-2.0
// The maintenance attachments of this node: begun, watched and ended (core/maintenance.hpp says when and where).
//
// Laws: only the volume server runs, no file system is touched. What is being repaired is read from the record
// (`maintenance`) and the engine's status, so that a restarted weftd goes on where its predecessor was killed. Nobody
// waits for it: Docker on this node makes the attachment its own (attach_steps), on another node takes it over (R1),
// and no call holds a volume's `operation` for longer than starting or flushing a server takes. An attempt that moves
// nothing is given up and tried again later: after attempt_pause_min, then twice that, up to attempt_pause_max; at once
// when a replica's state or presence is another one. `look` belongs to the planner's thread, the rest to any.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/core/healing.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/daemon/attach_steps.hpp"

namespace weft {

class volume_maintenance {
public:
    using submit = std::function<void(std::string key, std::string subject, std::function<status()> task)>;

    explicit volume_maintenance(attach_steps::environment around) : env_(around), steps_(around) {}

    /// Begins what is due and ends what is finished or stuck. `wishes`: volumes to be attached for a demotion; `kept`:
    /// volumes whose replicas are being replaced, not to be ended now.
    void look(const cluster_view& view, const std::set<node_name>& alive, const std::vector<demotion_wish>& wishes,
              const std::set<volume_id>& kept, const submit& hand_over);

    /// Attaches a volume of which nobody is the writer. `judge` says from the record as it is then why it still should
    /// be; empty: not any more. Errors: the store's, those of starting the server. Success also when there was nothing
    /// to do any more.
    status begin(const std::string& name, const volume_id& id,
                 const std::function<std::string(const volume_record&)>& judge);

    /// The status of the engines of every volume that this node writes.
    [[nodiscard]] std::vector<engine_report> reports() const;

private:
    struct attempt {
        std::string signature;                   // of what the last attempt found
        std::chrono::nanoseconds seen_at{0};     // the need was seen first
        std::chrono::nanoseconds not_before{0};  // the next attempt
        std::chrono::milliseconds pause{0};
    };
    struct progress {
        std::uint64_t epoch = 0;
        std::uint64_t mark = 0;
        std::chrono::nanoseconds moved_at{0};
    };

    void begin_due(const cluster_view& view, const std::set<node_name>& alive, const std::vector<demotion_wish>& wishes,
                   const submit& hand_over);
    void end_done(const cluster_view& view, const std::set<node_name>& alive, const std::set<volume_id>& kept,
                  const submit& hand_over);
    status end(const volume_id& id, std::uint64_t epoch, bool in_order, const std::string& why);

    const attach_steps::environment env_;
    attach_steps steps_;
    std::map<volume_id, attempt> attempts_;   // planner's thread only
    std::map<volume_id, progress> progress_;  // as above
};

}  // namespace weft
