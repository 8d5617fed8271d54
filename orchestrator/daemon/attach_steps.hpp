// SPDX-License-Identifier: Apache-2.0
// The steps from a record to a mounted file system and back, each of which finds out what is already there: a kill -9
// between any two of them leaves something that the next call, or the reconciler, finishes or takes apart.
//
//   up    record (writer = me, epoch + 1) → volume server → serving → block device → mkfs if due → mount
//   down  umount, block device → server flushed (R11) → record (writer = nobody, clean) → server ends → files removed
//
// Down, in order of the data; the record is released only when everything is on the replicas, and the server is killed
// only after it was released or when the record says that we are not the writer (R5).
// Precondition of every call: the attachment's `operation` is held by the caller. Blocking; any thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/daemon/attachment.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/lease_keeper.hpp"
#include "orchestrator/daemon/proposal_desk.hpp"
#include "orchestrator/daemon/volume_records.hpp"
#include "orchestrator/io/volume_device.hpp"

namespace weft {

class attach_steps {
public:
    struct environment {
        const daemon_options& options;
        store& cluster;
        cluster_cache& cache;
        volume_records& records;
        event_log& events;
        lease_keeper& lease;
        attachment_table& table;
        proposal_desk& proposals;
        exit_watcher& exits;
        std::function<void()> wake_reconciler;
    };
    explicit attach_steps(environment around) : env_(std::move(around)), devices_(env_.options) {}

    /// The record has us as the writer and our server serves. Returns the record then, and whether this call attached.
    /// A failure leaves nothing of this call behind. Errors: busy (a live writer elsewhere, or an old stack of this
    /// volume that is still held here), no_quorum, timed_out (names the replicas that it waited for), unavailable.
    struct attached {
        volume_record record;
        bool made = false;
    };
    result<attached> ensure_attached(attachment& of, const volume_record& record, bool force);

    /// Has the volume server ended? Then what failed may only have failed because of that.
    [[nodiscard]] bool lost_server(const attachment& of) const;
    /// Does the volume's block device wait for the next volume server, instead of failing what its users ask?
    [[nodiscard]] bool waits_for_server(const attachment& of) const;
    /// The server is dead under a device that waits: a new epoch (R1: a server that is started again is a new writer),
    /// a new server, and its sockets for the device. May be called again after any failure. Errors: stale_epoch when
    /// the record has another writer; as ensure_attached.
    result<volume_record> replace_server(attachment& of, const std::string& name);
    /// The server lives and is to be another one, for an upgrade: ends it and replaces it. Nothing is changed unless
    /// the device waits for the next server and the next epoch can be recorded now; killed after that, what is left is
    /// a dead server under a device that waits. Errors: those of may_restart; unsupported (its users would get I/O
    /// errors: the portable attach, or no device); unavailable; stale_epoch; not_found (no plugin to start). After the
    /// old server has gone: as replace_server, and the reconciler goes on with it.
    result<volume_record> restart_server(attachment& of, const std::string& name);

    /// The device gets new sockets for those that died, and with its file system follows a volume that has grown;
    /// success also when there was nothing to do, or when the volume server has not heard of it yet. May be repeated
    /// after any failure.
    status grow_device(attachment& of, const volume_record& record);

    /// Mirrored: device-mapper's set is made if it is not there, gets the legs that the record says, and the engine is
    /// told what the set says of them. Success also when there was nothing to do. May be repeated after any failure.
    status follow_legs(attachment& of, const volume_record& record);
    /// Mirrored: the progress of legs that are being rebuilt, and whether they are done; the scrub that the record asks
    /// for. Never waits for I/O.
    void look_at_legs(attachment& of);

    /// Becomes the writer for repair only (transitions' attach_for_maintenance, decided by `still_wanted`) and starts
    /// the volume server, without waiting until it serves. A failure leaves nothing of this call behind. Errors: those
    /// of `still_wanted`; unavailable; the store's.
    result<volume_record> begin_maintenance(attachment& of, const std::string& name,
                                            const volume_records::decision& still_wanted);

    /// The block device alone, for an administrator. Errors: as volume_devices::attach.
    result<std::string> ensure_device(attachment& of, const volume_record& record);

    /// Can this node mount it at all? To be asked before anything is changed. Errors: unsupported.
    [[nodiscard]] status check_mountable(const attachment& of, const volume_record& record) const;
    /// Block device, file system, mount. Returns the container's path. Errors: corrupt when the file system or LUKS
    /// header found there must not be touched; unavailable (no key, the wrong one; the volume server died meanwhile);
    /// io_failed, timed_out.
    result<std::string> ensure_mounted(attachment& of, const volume_record& record);

    /// Down, whatever the state is: in order if the server lives and is ours, by force if it is dead. Does not ask
    /// whether the volume is in use. Errors: busy (another mount namespace holds it), timed_out, unavailable: call
    /// again.
    status detach(attachment& of);
    /// As detach for an attachment that only repairs: what cannot be flushed at once is given up, because somebody may
    /// be waiting for the volume. `why` is for the event.
    status end_maintenance(attachment& of, const std::string& why);
    /// R5 and leftovers: kills the server first, then takes the rest apart. Errors: busy (held: the rest stays).
    status take_apart(attachment& of);
    /// The record names us and nothing is here. Errors: the store's.
    status abandon(const std::string& name, const volume_id& id, std::uint64_t epoch);

    /// Devices of volumes that nothing else here knows (`known`: their runtime directories), and who has them mounted:
    /// empty for one that may be taken apart. Errors: io_failed, corrupt.
    struct stray {
        volume_id id;
        std::string held_by;
    };
    result<std::vector<stray>> strays(const std::vector<volume_id>& known) const;

    /// Connects to a server that an earlier weftd started.
    void adopt(attachment& of, const core::attach_config& config, const process_identity& server);

    /// Drops the connection to the server, which lives on.
    void disconnect(attachment& of);

    /// Nobody's mount namespace but ours has the file system. "Cannot know" is an error.
    result<std::string> holders(const attachment& of) const;
    [[nodiscard]] std::filesystem::path mount_target(const volume_id& id) const;

private:
    [[nodiscard]] volume_shape shape_of(const volume_record& record, const attachment& of) const;
    /// The block device; nothing above it. `server`: a pidfd of the volume server.
    [[nodiscard]] result<std::string> stitch(const attachment& of, const volume_shape& shape,
                                             const unique_fd& server) const;
    result<std::optional<volume_record>> replace_if_it_waits(attachment& of, const volume_record& record);
    result<volume_record> put_next_server(attachment& of, const std::string& name);
    status check_restart(attachment& of, const volume_record& record);
    status clear_old_stack(attachment& of, const volume_record& record);
    result<volume_record> become_writer(const volume_record& record, bool force);
    result<volume_record> claim_repaired(const volume_record& record);
    status launch_server(attachment& of, const volume_record& before, const volume_record& now);
    status start_server(attachment& of, const volume_record& before, const volume_record& now);
    void undo_attach(attachment& of, const volume_record& now);
    status flush_and_release(attachment& of, const std::string& name, std::uint64_t epoch,
                             std::chrono::milliseconds patience, const std::string& told);
    void note_device(attachment& of);
    result<volume_record> with_legs_of_today(volume_record record);
    [[nodiscard]] result<unique_fd> watch_server(const attachment& of) const;
    status tell_legs(attachment& of, const volume_shape& shape);
    status scrub_sets(attachment& of, const volume_shape& shape);
    status look_for_equality(attachment& of, const volume_shape& shape);
    [[nodiscard]] bool legs_are_equal(const attachment& of) const;
    [[nodiscard]] bool left_clean(const attachment& of) const;
    status take_device_down(attachment& of, bool broken);
    void connect(attachment& of, const core::attach_config& config, const process_identity& server);
    status remove_remains(attachment& of);
    result<core::attach_config> config_for(const volume_record& before, const volume_record& now);

    const environment env_;
    const volume_devices devices_;
};

}  // namespace weft
